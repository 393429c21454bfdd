//! The dependency image: the base and exactly the packages of one lock, shared by every function with
//! the same lock.
//!
//! ```text
//! requirements ─▶ resolve (known for an hour, else uv in a step of the engine) ─▶ lock
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
use std::time::{Duration, Instant};

use mecapy_engine::{ContextFile, Credentials, Engine};
use mecapy_proto::ErrorCode;
use mecapy_registry::{
    Appender, Base, ConfigPatch, Digest, FolderLayer, ImageRef, Manifest, Registry,
};
use mecapy_service::step;
use pep508_rs::PackageName;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::bases::BaseImage;
use crate::broom::Broom;
use crate::build_log::BuildLog;
use crate::dockerfile::{CONFINED_SCRIPT, Dockerfiles, INSTALL_SCRIPT, RESOLVE_SCRIPT};
use crate::egress::Network;
use crate::engine_step::{self, Budget, Settings, Step, run};
use crate::lock::Lock;
use crate::options::Options;
use crate::rejection::Rejection;
use crate::replicas::{Replicas, Turn};
use crate::requirements::{Requirements, package_name};
use crate::resolutions::Resolutions;
use crate::single_flight::SingleFlight;
use crate::step_files::source_packages;
use crate::{Error, metric_definitions};

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
    engine: Engine,
    broom: Broom,
    staging: Registry,
    appender: Appender,
    credentials: Option<Credentials>,
    options: Options,
    source_packages: BTreeSet<PackageName>,
    settings: Settings,
    dockerfiles: Dockerfiles,
    resolutions: Resolutions,
    flights: SingleFlight,
    replicas: Option<Replicas>,
    slots: Semaphore,
}

impl Dependencies {
    pub fn new(
        engine: Engine,
        primary: &Registry,
        staging: Registry,
        replicas: Option<Replicas>,
        options: &Options,
    ) -> Result<Self, Error> {
        let credentials = |registry: &Registry| registry.credentials().map(Credentials::from);
        let logins = [primary, &staging]
            .into_iter()
            .filter_map(|registry| Some((registry.host().to_owned(), credentials(registry)?)))
            .collect();
        Ok(Self {
            broom: Broom::new(&engine),
            settings: Settings::new(&engine, options, logins)?,
            engine,
            credentials: credentials(&staging),
            appender: Appender::new(staging.clone()),
            staging,
            dockerfiles: Dockerfiles::new()?,
            resolutions: Resolutions::new(Duration::from_secs(options.resolution_ttl_seconds)),
            flights: SingleFlight::default(),
            replicas,
            slots: Semaphore::new(options.parallel_engine_builds),
            source_packages: options
                .source_packages
                .iter()
                .filter_map(|name| package_name(name))
                .collect(),
            options: options.clone(),
        })
    }

    /// Waits until nothing of past builds is left with the engine.
    pub async fn finish(&self) {
        self.settings.close();
        self.broom.finish().await;
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
        let mut budget = Budget::new(&self.options);
        let lock = self.lock(base, requirements, &mut budget, log, cancel);
        let lock = step("lock", lock).await?;
        if lock.is_empty() {
            log.write("none of the requirements is for this Python and platform");
            return Ok(DependencyImage::base(base));
        }
        let from_source = lock.among(&self.source_packages);
        let (digest, platform) = (&base.manifest.digest, &self.options.platform);
        let key = lock.dependency_key(digest, &base.python, platform, &from_source);
        let (manifest, is_new) = {
            let key = key.as_str();
            let make =
                self.make(base, (&lock, from_source.as_slice()), key, &mut budget, log, cancel);
            let image = self.once(key, cancel, || self.find(key), make);
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

    /// What `find` finds; else what `make` makes, by one build at a time for each key over all replicas. True: it was
    /// made here.
    async fn once<T, F: Future<Output = Result<Option<T>, Error>>>(
        &self,
        key: &str,
        cancel: &CancellationToken,
        find: impl Fn() -> F,
        make: impl Future<Output = Result<T, Error>>,
    ) -> Result<(T, bool), Error> {
        if let Some(found) = find().await? {
            return Ok((found, false));
        }
        let _alone = tokio::select! {
            alone = self.flights.enter(key) => alone,
            () = cancel.cancelled() => return Err(Error::Cancelled),
        };
        if let Some(found) = find().await? {
            return Ok((found, false));
        }
        let _turn = match &self.replicas {
            None => None,
            Some(replicas) => match replicas.turn(key, cancel, find).await? {
                Turn::Made(found) => return Ok((found, false)),
                Turn::Ours(lease) => Some(lease),
            },
        };
        Ok((make.await?, true))
    }

    async fn find(&self, key: &str) -> Result<Option<Manifest>, Error> {
        match self.staging.manifest(REPOSITORY, key).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Error::registry("looking for the dependency image")(error)),
        }
    }

    async fn lock(
        &self,
        base: &BaseImage,
        requirements: &Requirements,
        budget: &mut Budget,
        log: &BuildLog,
        cancel: &CancellationToken,
    ) -> Result<Lock, Error> {
        // Another index may resolve the same to something else.
        let index = self.options.index_url.as_ref().map_or("", |url| url.expose());
        let mut asked = vec![
            base.manifest.digest.to_string(),
            index.to_owned(),
            requirements.fingerprint_text(),
        ];
        asked.extend(self.source_packages.iter().map(ToString::to_string));
        let asked = asked.join("\0");
        let key = format!("resolution:{}", Digest::of(asked.as_bytes()).hex());
        let key = key.as_str();
        let resolve = async {
            let lock = self.resolve(base, requirements, budget, log, cancel).await?;
            self.resolutions.put(key.to_owned(), lock.clone(), Duration::ZERO);
            if let Some(replicas) = &self.replicas {
                replicas.keep_resolution(key, &lock).await?;
            }
            Ok(lock)
        };
        let (lock, is_new) = self.once(key, cancel, || self.resolution(key), resolve).await?;
        metric_definitions::lock(if is_new { "resolved" } else { "cached" });
        Ok(lock)
    }

    /// What was resolved a short while ago, here or by another replica.
    async fn resolution(&self, key: &str) -> Result<Option<Lock>, Error> {
        if let Some(lock) = self.resolutions.get(key) {
            return Ok(Some(lock));
        }
        let Some(replicas) = &self.replicas else { return Ok(None) };
        let Some((lock, age)) = replicas.resolution(key, self.resolutions.ttl()).await? else {
            return Ok(None);
        };
        self.resolutions.put(key.to_owned(), lock.clone(), age);
        Ok(Some(lock))
    }

    async fn resolve(
        &self,
        base: &BaseImage,
        requirements: &Requirements,
        budget: &mut Budget,
        log: &BuildLog,
        cancel: &CancellationToken,
    ) -> Result<Lock, Error> {
        let _slot = self.slot(cancel).await?;
        log.write(&format!(
            "resolving {} requirements for Python {}",
            requirements.len(),
            base.python
        ));
        let network = self.network(base, budget, cancel).await?;
        let scratch = self.broom.scratch("resolve");
        let from = base.reference(&self.staging).to_string();
        // Which of them it comes to, nobody knows yet.
        let from_source: Vec<_> = self.source_packages.iter().map(ToString::to_string).collect();
        let step = Step {
            name: "resolve",
            dockerfile: self.dockerfiles.step(&from, "resolve.sh", self.confined(&from_source))?,
            files: vec![
                ContextFile::new("resolve.sh", RESOLVE_SCRIPT),
                ContextFile::new("confined.py", CONFINED_SCRIPT),
                ContextFile::new("requirements.in", requirements.render()),
                source_packages(&from_source),
            ],
            image: &scratch.name,
            network: Some(network),
        };
        let (_, output) = run(&self.engine, &self.settings, step, budget, log, cancel).await?;
        let lock = Lock::parse(output.lock())?.restrict(requirements)?;
        log.write(&format!("resolved to {} packages", lock.len()));
        Ok(lock)
    }

    /// Installs, and puts what is there then on the base.
    async fn make(
        &self,
        base: &BaseImage,
        (lock, from_source): (&Lock, &[String]),
        key: &str,
        budget: &mut Budget,
        log: &BuildLog,
        cancel: &CancellationToken,
    ) -> Result<Manifest, Error> {
        let _slot = self.slot(cancel).await?;
        log.write(&format!("installing {} packages", lock.len()));
        let from = base.reference(&self.staging).to_string();
        let network = self.network(base, budget, cancel).await?;
        let installed = self.broom.scratch("install");
        let install = Step {
            name: "install",
            dockerfile: self.dockerfiles.step(&from, "install.sh", self.confined(from_source))?,
            files: vec![
                ContextFile::new("install.sh", INSTALL_SCRIPT),
                ContextFile::new("confined.py", CONFINED_SCRIPT),
                ContextFile::new("requirements.lock", lock.render()),
                source_packages(from_source),
            ],
            image: &installed.name,
            network: Some(network),
        };
        run(&self.engine, &self.settings, install, budget, log, cancel).await?;

        let limit = budget.left();
        let layer = tokio::select! {
            layer = self.environment(base, &installed.name) => layer?,
            () = tokio::time::sleep(limit) => return Err(engine_step::too_slow(&self.options)),
            () = cancel.cancelled() => return Err(Error::Cancelled),
        };
        let below =
            self.engine.image(&from).await.map_err(Error::engine("measuring the base image"))?;
        let size = below.map_or(0, |below| below.size) + layer.unpacked_bytes;
        if size > self.options.max_image_bytes {
            return Err(Rejection::new(
                ErrorCode::ImageTooLarge,
                format!(
                    "with its packages the image has {} MiB; at most {} MiB are accepted: ask for fewer or smaller packages",
                    size >> 20,
                    self.options.max_image_bytes >> 20
                ),
            )
            .into());
        }
        let began = Instant::now();
        let below = Base { repository: base.repository.clone(), manifest: base.manifest.clone() };
        let config = ConfigPatch {
            labels: [(KEY_LABEL.to_owned(), key.to_owned())].into(),
            user: Some("mecapy".to_owned()),
            ..ConfigPatch::default()
        };
        let append = self.appender.append_folder(&below, REPOSITORY, key, &layer, &config);
        let appended = tokio::select! {
            appended = append => appended.map_err(Error::registry("pushing the dependency image"))?,
            () = cancel.cancelled() => return Err(Error::Cancelled),
        };
        metric_definitions::step("push", began.elapsed());
        self.staging
            .manifest(REPOSITORY, &appended.digest.to_string())
            .await
            .map_err(Error::registry("reading the dependency image"))
    }

    /// What was installed, as the layer that goes on the base: neither certificates nor an index nor build arguments
    /// have been in it.
    async fn environment(&self, base: &BaseImage, installed: &str) -> Result<FolderLayer, Error> {
        let began = Instant::now();
        let mut folder = self
            .engine
            .archive(installed, &format!("/{ENVIRONMENT}"))
            .await
            .map_err(Error::engine("reading the packages"))?;
        // Of a base's own packages nothing may be left.
        let layer = FolderLayer::pack(&mut folder, ENVIRONMENT, base.variant != BARE_VARIANT).await;
        folder.close().await;
        metric_definitions::step("assemble", began.elapsed());
        layer.map_err(Error::registry("packing the packages"))
    }

    /// The limit on the processes of a step in which the code of packages may run. None: none may.
    fn confined(&self, from_source: &[String]) -> Option<u32> {
        (!from_source.is_empty()).then_some(self.options.max_processes)
    }

    /// The network for a step in the base image.
    async fn network(
        &self,
        base: &BaseImage,
        budget: &mut Budget,
        cancel: &CancellationToken,
    ) -> Result<Network, Error> {
        let image = base.reference(&self.staging);
        let name = image.to_string();
        let known = self.engine.image(&name).await;
        if known.map_err(Error::engine("looking for the base image"))?.is_none() {
            let began = Instant::now();
            let pull = self.engine.pull(&image, self.credentials.as_ref(), budget.left());
            tokio::select! {
                pulled = pull => pulled.map_err(Error::engine("pulling the base image"))?,
                () = cancel.cancelled() => return Err(Error::Cancelled),
            }
            budget.spend(began.elapsed());
        }
        self.settings.network(&name).await
    }

    /// Waits for its turn with the engine. The time of the build has not begun.
    async fn slot(
        &self,
        cancel: &CancellationToken,
    ) -> Result<tokio::sync::SemaphorePermit<'_>, Error> {
        tokio::select! {
            slot = self.slots.acquire() => slot.map_err(|_| Error::Interrupted),
            () = cancel.cancelled() => Err(Error::Cancelled),
        }
    }
}
