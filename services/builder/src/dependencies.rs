//! The dependency image: the base and exactly the packages of one lock, shared by every function with
//! the same lock.
//!
//! ```text
//! requirements ─▶ resolver ─▶ lock
//! base digest, lock, Python, platform ─▶ key ─▶ staging has deps:{key}? ─ yes ─▶ it
//!                                                 └─ no ─▶ install ─▶ the environment as a layer ─▶ push
//! ```
//!
//! Each of the two is done by one build at a time, over all replicas of the builder, and the others find what it made.
//!
//! Only wheels are taken, and only by their hashes, so no code of a user or a package runs here. Packages that operators
//! except from that are built in a step that is confined (`templates/confined.py`).
//! The image is the base and the environment alone: certificates, the index and proxies with their
//! credentials are in none of its layers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use mecapy_engine::{ContextFile, Engine};
use mecapy_proto::ErrorCode;
use mecapy_registry::{Appender, Base, ConfigPatch, FolderLayer, ImageRef, Manifest, Registry};
use mecapy_service::step;
use pep508_rs::PackageName;
use tokio_util::sync::CancellationToken;

use crate::bases::BaseImage;
use crate::dockerfile::INSTALL_SCRIPT;
use crate::engine_step::too_slow;
use crate::lock::Lock;
use crate::once::Once;
use crate::options::Options;
use crate::rejection::Rejection;
use crate::replicas::Replicas;
use crate::requirements::{Requirements, package_name};
use crate::resolver::Resolver;
use crate::steps::{Script, Steps};
use crate::work::{Budget, Work};
use crate::{BuildLog, Error, metric_definitions};

const REPOSITORY: &str = "mecapy/staging/deps";
/// Where packages are, from the root of the image.
const ENVIRONMENT: &str = "opt/venv";
const KEY_LABEL: &str = "org.mecapy.dependencies.key";
/// The variant whose environment holds no packages.
const BARE_VARIANT: &str = "slim";

/// What a function's own layer goes on.
#[derive(Debug, Clone)]
pub struct DependencyImage {
    pub repository: String,
    pub manifest: Manifest,
    /// None: there are no requirements, and it is the base image.
    pub lock: Option<Lock>,
    /// Those of its packages that were built from their sources.
    pub from_source: Vec<String>,
}

impl DependencyImage {
    pub fn reference(&self, registry: &Registry) -> ImageRef {
        ImageRef::new(registry.host(), &self.repository).with_digest(self.manifest.digest)
    }

    fn base(base: &BaseImage) -> Self {
        Self {
            repository: base.repository.clone(),
            manifest: base.manifest.clone(),
            lock: None,
            from_source: Vec::new(),
        }
    }
}

/// Finds or makes dependency images.
#[derive(Debug)]
pub struct Dependencies {
    steps: Arc<Steps>,
    resolver: Resolver,
    source_packages: BTreeSet<PackageName>,
    appender: Appender,
    once: Once<Manifest>,
}

impl Dependencies {
    pub fn new(
        engine: Engine,
        primary: &Registry,
        staging: Registry,
        replicas: Option<Replicas>,
        options: &Options,
    ) -> Result<Self, Error> {
        let source_packages: BTreeSet<_> =
            options.source_packages.iter().filter_map(|name| package_name(name)).collect();
        let appender = Appender::new(staging.clone());
        let steps = Arc::new(Steps::new(engine, primary, staging, options)?);
        Ok(Self {
            resolver: Resolver::new(Arc::clone(&steps), source_packages.clone(), replicas.clone()),
            steps,
            source_packages,
            appender,
            once: Once::new(replicas),
        })
    }

    /// Waits until nothing of past builds is left with the engine.
    pub async fn finish(&self) {
        self.steps.finish().await;
    }

    /// The dependency image of these requirements on this base.
    pub async fn image(
        &self,
        base: &BaseImage,
        requirements: &Requirements,
        log: &BuildLog,
        cancel: &CancellationToken,
    ) -> Result<DependencyImage, Error> {
        if requirements.is_empty() {
            metric_definitions::dependency_image("base");
            return Ok(DependencyImage::base(base));
        }
        let options = &self.steps.options;
        let mut work = Work { budget: Budget::of(options.limit()), log, cancel };
        let lock = step("lock", self.resolver.lock(base, requirements, &mut work)).await?;
        if lock.is_empty() {
            log.write("none of the requirements is for this Python and platform");
            return Ok(DependencyImage::base(base));
        }
        let from_source = lock.among(&self.source_packages);
        let (digest, platform) = (&base.manifest.digest, &options.platform);
        let key = lock.dependency_key(digest, &base.python, platform, &from_source);
        let (manifest, is_new) = {
            let make = self.make(base, (&lock, &from_source), &key, &mut work);
            let image = self.once.get(&key, &self.steps.slots, cancel, || self.find(&key), make);
            step("dependency image", image).await?
        };
        if is_new {
            metric_definitions::dependency_image("built");
        } else {
            metric_definitions::dependency_image("found");
            log.write(&format!("the {} packages are there already", lock.len()));
        }
        Ok(DependencyImage {
            repository: REPOSITORY.to_owned(),
            manifest,
            lock: Some(lock),
            from_source,
        })
    }

    async fn find(&self, key: &str) -> Result<Option<Manifest>, Error> {
        match self.steps.staging.manifest(REPOSITORY, key).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Error::registry("looking for the dependency image")(error)),
        }
    }

    /// Installs, and puts what is there then on the base.
    async fn make(
        &self,
        base: &BaseImage,
        (lock, from_source): (&Lock, &[String]),
        key: &str,
        work: &mut Work<'_>,
    ) -> Result<Manifest, Error> {
        work.log.write(&format!("installing {} packages", lock.len()));
        let script = Script {
            name: "install",
            text: INSTALL_SCRIPT,
            input: ContextFile::new("requirements.lock", lock.render()),
        };
        let (installed, _) = self.steps.run(base, script, from_source, work).await?;
        let layer = self.environment(base, &installed.name);
        let layer = work.unless_cancelled(tokio::time::timeout(work.budget.left(), layer)).await?;
        let layer = layer.map_err(|_| too_slow(&self.steps.options))??;
        drop(installed);
        self.check_size(base, &layer).await?;

        let began = Instant::now();
        let below = Base { repository: base.repository.clone(), manifest: base.manifest.clone() };
        let config = ConfigPatch {
            labels: [(KEY_LABEL.to_owned(), key.to_owned())].into(),
            user: Some("mecapy".to_owned()),
            ..ConfigPatch::default()
        };
        let append = self.appender.append_folder(&below, REPOSITORY, key, &layer, &config);
        let appended = work.unless_cancelled(append).await?;
        let appended = appended.map_err(Error::registry("pushing the dependency image"))?;
        metric_definitions::step("push", began.elapsed());
        self.steps
            .staging
            .manifest(REPOSITORY, &appended.digest.to_string())
            .await
            .map_err(Error::registry("reading the dependency image"))
    }

    /// What was installed, as the layer that goes on the base: neither certificates nor an index nor build arguments
    /// have been in it.
    async fn environment(&self, base: &BaseImage, installed: &str) -> Result<FolderLayer, Error> {
        let began = Instant::now();
        let folder = self.steps.engine.archive(installed, &format!("/{ENVIRONMENT}")).await;
        let mut folder = folder.map_err(Error::engine("reading the packages"))?;
        // Of a base's own packages nothing may be left.
        let layer = FolderLayer::pack(&mut folder, ENVIRONMENT, base.variant != BARE_VARIANT).await;
        folder.close().await;
        metric_definitions::step("assemble", began.elapsed());
        layer.map_err(Error::registry("packing the packages"))
    }

    async fn check_size(&self, base: &BaseImage, layer: &FolderLayer) -> Result<(), Error> {
        let steps = &self.steps;
        let below = steps.engine.image(&base.reference(&steps.staging).to_string()).await;
        let below = below.map_err(Error::engine("measuring the base image"))?;
        let size = below.map_or(0, |below| below.size) + layer.unpacked_bytes;
        let limit = steps.options.max_image_bytes;
        if size <= limit {
            return Ok(());
        }
        let message = format!(
            "with its packages the image has {} MiB; at most {} MiB are accepted: ask for fewer or smaller packages",
            size >> 20,
            limit >> 20
        );
        Err(Rejection::new(ErrorCode::ImageTooLarge, message).into())
    }
}
