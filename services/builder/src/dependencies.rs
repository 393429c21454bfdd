//! The dependency image: the base and exactly the packages of one lock, shared by every function with
//! the same lock.
//!
//! ```text
//! requirements ─▶ resolve (known for an hour, else uv in a step of the engine) ─▶ lock
//! base digest, lock, Python, platform ─▶ key ─▶ staging has deps:{key}? ─ yes ─▶ it
//!                                                 └─ no ─▶ install ─▶ assemble ─▶ push
//! ```
//!
//! Each of the two is done by one build at a time, over all replicas of the builder, and the others find what it made.
//!
//! Only wheels are taken, and only by their hashes, so no code of a user or a package runs here.
//! The image is assembled from the environment alone: certificates, the index and proxies with their
//! credentials are in none of its layers.

use std::time::{Duration, Instant};

use mecapy_engine::{ContextFile, Credentials, Engine};
use mecapy_proto::ErrorCode;
use mecapy_registry::{Digest, ImageRef, Manifest, Registry};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::bases::BaseImage;
use crate::build_log::BuildLog;
use crate::dockerfile::{Dockerfiles, INSTALL_SCRIPT, RESOLVE_SCRIPT};
use crate::engine_step::{Broom, Budget, Settings, Step, run};
use crate::lock::Lock;
use crate::options::Options;
use crate::rejection::Rejection;
use crate::replicas::{Replicas, Turn};
use crate::requirements::Requirements;
use crate::resolutions::Resolutions;
use crate::single_flight::SingleFlight;
use crate::{Error, metric_definitions};

const REPOSITORY: &str = "mecapy/staging/deps";
/// The variant whose environment holds no packages.
const BARE_VARIANT: &str = "slim";

/// What a function's own layer goes on.
#[derive(Debug, Clone)]
pub struct DependencyImage {
    pub repository: String,
    pub manifest: Manifest,
    /// None: there are no requirements, and it is the base image.
    pub lock: Option<Lock>,
}

impl DependencyImage {
    pub fn reference(&self, registry: &Registry) -> ImageRef {
        ImageRef::new(registry.host(), &self.repository).with_digest(self.manifest.digest)
    }

    fn base(base: &BaseImage) -> Self {
        Self { repository: base.repository.clone(), manifest: base.manifest.clone(), lock: None }
    }
}

/// Finds or makes dependency images.
#[derive(Debug)]
pub struct Dependencies {
    engine: Engine,
    broom: Broom,
    staging: Registry,
    credentials: Option<Credentials>,
    options: Options,
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
            staging,
            dockerfiles: Dockerfiles::new()?,
            resolutions: Resolutions::new(Duration::from_secs(options.resolution_ttl_seconds)),
            flights: SingleFlight::default(),
            replicas,
            slots: Semaphore::new(options.parallel_engine_builds),
            options: options.clone(),
        })
    }

    /// Waits until nothing of past builds is left with the engine.
    pub async fn finish(&self) {
        self.settings.close().await;
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
        let lock = self.lock(base, requirements, &mut budget, log, cancel).await?;
        if lock.is_empty() {
            log.write("none of the requirements is for this Python and platform");
            return Ok(DependencyImage::base(base));
        }
        let key = lock.dependency_key(&base.manifest.digest, &base.python, &self.options.platform);
        let (manifest, is_new) = {
            let key = key.as_str();
            let make = self.make(base, &lock, key, &mut budget, log, cancel);
            self.once(key, cancel, || self.find(key), make).await?
        };
        if is_new {
            metric_definitions::dependency_image("built");
        } else {
            metric_definitions::dependency_image("found");
            log.write(&format!("the {} packages are there already", lock.len()));
        }
        Ok(self.dependency_image(manifest, lock))
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

    fn dependency_image(&self, manifest: Manifest, lock: Lock) -> DependencyImage {
        DependencyImage { repository: REPOSITORY.to_owned(), manifest, lock: Some(lock) }
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
        let asked =
            [&base.manifest.digest.to_string(), index, &requirements.fingerprint_text()].join("\0");
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
        let network = self.network(base).await?;
        let scratch = self.broom.scratch("resolve");
        let step = Step {
            name: "resolve",
            dockerfile: self
                .dockerfiles
                .step(&base.reference(&self.staging).to_string(), "resolve.sh")?,
            files: vec![
                ContextFile::new("resolve.sh", RESOLVE_SCRIPT),
                ContextFile::new("requirements.in", requirements.render()),
            ],
            image: &scratch.name,
            network: Some(network),
        };
        let (_, output) = run(&self.engine, &self.settings, step, budget, log, cancel).await?;
        let lock = Lock::parse(output.lock())?.restrict(requirements)?;
        log.write(&format!("resolved to {} packages", lock.len()));
        Ok(lock)
    }

    /// Installs, assembles and pushes.
    async fn make(
        &self,
        base: &BaseImage,
        lock: &Lock,
        key: &str,
        budget: &mut Budget,
        log: &BuildLog,
        cancel: &CancellationToken,
    ) -> Result<Manifest, Error> {
        let _slot = self.slot(cancel).await?;
        log.write(&format!("installing {} packages", lock.len()));
        let from = base.reference(&self.staging).to_string();
        let network = self.network(base).await?;
        let installed = self.broom.scratch("install");
        let install = Step {
            name: "install",
            dockerfile: self.dockerfiles.step(&from, "install.sh")?,
            files: vec![
                ContextFile::new("install.sh", INSTALL_SCRIPT),
                ContextFile::new("requirements.lock", lock.render()),
            ],
            image: &installed.name,
            network: Some(network),
        };
        run(&self.engine, &self.settings, install, budget, log, cancel).await?;

        let reference = ImageRef::new(self.staging.host(), REPOSITORY).with_tag(key);
        let assembled = self.broom.scratch_named(reference.to_string());
        let replaces_venv = base.variant != BARE_VARIANT;
        let assemble = Step {
            name: "assemble",
            dockerfile: self.dockerfiles.dependencies(
                &from,
                &installed.name,
                key,
                replaces_venv,
            )?,
            files: Vec::new(),
            image: &assembled.name,
            network: None,
        };
        let (image, _) = run(&self.engine, &self.settings, assemble, budget, log, cancel).await?;
        if image.size > self.options.max_image_bytes {
            return Err(Rejection::new(
                ErrorCode::ImageTooLarge,
                format!(
                    "with its packages the image has {} MiB; at most {} MiB are accepted: ask for fewer or smaller packages",
                    image.size >> 20,
                    self.options.max_image_bytes >> 20
                ),
            )
            .into());
        }
        let began = Instant::now();
        let push = self.engine.push(&reference, self.credentials.as_ref(), self.options.limit());
        let digest = tokio::select! {
            pushed = push => pushed.map_err(Error::engine("pushing the dependency image"))?,
            () = cancel.cancelled() => return Err(Error::Cancelled),
        };
        metric_definitions::step("push", began.elapsed());
        self.staging
            .manifest(REPOSITORY, &digest.to_string())
            .await
            .map_err(Error::registry("reading the dependency image"))
    }

    /// The network for steps in the base image.
    async fn network(&self, base: &BaseImage) -> Result<String, Error> {
        let image = base.reference(&self.staging);
        let name = image.to_string();
        let known = self.engine.image(&name).await;
        if known.map_err(Error::engine("looking for the base image"))?.is_none() {
            let pull = self.engine.pull(&image, self.credentials.as_ref(), self.options.limit());
            pull.await.map_err(Error::engine("pulling the base image"))?;
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
