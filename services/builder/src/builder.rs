//! One build, from the request to the image in staging. No event, no database, no S3.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::{Either, select};
use mecapy_engine::Engine;
use mecapy_proto::{ErrorCode, FunctionId, Owner};
use mecapy_registry::{Appender, Base, Digest, ImageRef, Registry};
use mecapy_service::step;
use ruff_python_ast::PythonVersion;
use tokio_util::sync::CancellationToken;

use crate::bases::Bases;
use crate::build_log::BuildLog;
use crate::dependencies::Dependencies;
use crate::dockerfile::Dockerfiles;
use crate::options::Options;
use crate::rejection::Rejection;
use crate::replicas::Replicas;
use crate::requirements::Requirements;
use crate::validation::python_version;
use crate::{Error, function_image, metric_definitions, validation};

/// A version of a function that is to become an image.
#[derive(Debug, Clone)]
pub struct Request {
    pub function_id: FunctionId,
    pub owner: Owner,
    /// From 1.
    pub version: u32,
    /// "3.11"
    pub python: String,
    /// "slim"
    pub variant: String,
    /// As it was uploaded.
    pub code: Bytes,
    /// The text of a `requirements.txt`.
    pub requirements: String,
}

impl Request {
    pub fn inputs_sha256(&self) -> String {
        mecapy_proto::inputs_sha256(&self.code, &self.requirements, &self.python, &self.variant)
    }
}

/// An image in staging.
#[derive(Debug, Clone)]
pub struct Built {
    /// With tag and digest.
    pub image: ImageRef,
    /// `v{version}-{sha8}`
    pub tag: String,
    /// Compressed size of all its layers.
    pub size_bytes: u64,
    /// Of the base image that it stands on.
    pub base_digest: Digest,
    /// With digest. The base image, where there are no requirements.
    pub dependency_image: ImageRef,
    /// None: there are no requirements.
    pub lock: Option<String>,
    /// An equivalent Dockerfile, for the user.
    pub dockerfile: String,
}

/// Builds functions. One a process: it knows what it resolved and what it is building.
#[derive(Debug)]
pub struct Builder {
    options: Options,
    staging: Registry,
    appender: Appender,
    bases: Bases,
    dependencies: Dependencies,
    dockerfiles: Dockerfiles,
}

impl Builder {
    /// `primary` has the base images, `staging` gets what is made; they may be the same. Without `replicas` it shares
    /// nothing but the registry with others.
    pub fn new(
        options: Options,
        engine: Engine,
        primary: Registry,
        staging: Registry,
        replicas: Option<Replicas>,
    ) -> Result<Self, Error> {
        Ok(Self {
            bases: Bases::new(primary.clone(), staging.clone(), options.platform.clone()),
            dependencies: Dependencies::new(engine, &primary, staging.clone(), replicas, &options)?,
            dockerfiles: Dockerfiles::new()?,
            appender: Appender::new(staging.clone()),
            staging,
            options,
        })
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Waits until nothing of past builds is left with the engine: before the process ends.
    pub async fn finish(&self) {
        self.dependencies.finish().await;
    }

    /// Builds an image. The same request ends in the same image, however often it is built.
    pub async fn build(
        self: &Arc<Self>,
        request: &Request,
        log: &BuildLog,
        cancel: &CancellationToken,
    ) -> Result<Built, Error> {
        let built = tokio::select! {
            built = self.build_to_its_end(request, log, cancel) => built,
            // Steps of the engine end by themselves, and are waited for.
            () = cancelled_for_long(cancel) => Err(Error::Cancelled),
        };
        match &built {
            Ok(built) => {
                log.write(&format!("the image is {} ({} bytes)", built.tag, built.size_bytes))
            }
            Err(error) => log.write(&format!("failed: {}", error.rejection())),
        }
        metric_definitions::ended(match &built {
            Ok(_) => "built",
            Err(error) if error.is_transient() => "transient",
            Err(error) => error.rejection().code.as_str(),
        });
        built
    }

    async fn build_to_its_end(
        self: &Arc<Self>,
        request: &Request,
        log: &BuildLog,
        cancel: &CancellationToken,
    ) -> Result<Built, Error> {
        log.write(&format!(
            "building version {} of function {} for Python {} ({})",
            request.version, request.function_id, request.python, request.variant
        ));
        let python = self.check_base(request)?;
        let validated = pin!(step("validate", self.validate(request, python)));
        let found = self.bases.find(&request.python, &request.variant);
        let found = pin!(step("base image", found));
        // A refusal does not wait for the registry, nor give way to its troubles.
        let (requirements, base) = match select(validated, found).await {
            Either::Left((requirements, found)) => (requirements?, found.await?),
            Either::Right((base, validated)) => (validated.await?, base?),
        };
        let dependencies = self.dependencies.image(&base, &requirements, log, cancel).await?;
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }

        let began = Instant::now();
        let inputs = request.inputs_sha256();
        let tag = function_image::tag(request.version, &inputs);
        let repository = function_image::staging_repository(&request.owner, request.function_id);
        let labels = function_image::labels(
            &request.owner,
            request.function_id,
            request.version,
            &request.python,
            &inputs,
            &base.manifest.digest,
        );
        let dockerfile = self.dockerfiles.function(
            &base.reference(&self.staging).to_string(),
            dependencies.lock.is_some(),
            &dependencies.from_source,
            request.function_id.get(),
            request.version,
            &labels,
        )?;
        let layer = function_image::layer(request.code.clone())
            .map_err(Error::registry("making the code's layer"))?;
        let below = Base {
            repository: dependencies.repository.clone(),
            manifest: dependencies.manifest.clone(),
        };
        let patch = function_image::config(labels);
        let push = self.appender.append(&below, &repository, &tag, layer, &patch);
        let appended =
            step("push", push).await.map_err(Error::registry("putting the image into staging"))?;
        metric_definitions::step("append", began.elapsed());
        Ok(Built {
            image: ImageRef::new(self.staging.host(), repository)
                .with_tag(&tag)
                .with_digest(appended.digest),
            tag,
            size_bytes: appended.size_bytes,
            base_digest: base.manifest.digest,
            dependency_image: dependencies.reference(&self.staging),
            lock: dependencies.lock.map(|lock| lock.render()),
            dockerfile,
        })
    }

    fn check_base(&self, request: &Request) -> Result<PythonVersion, Rejection> {
        let Options { python_versions, variants, .. } = &self.options;
        let python =
            python_version(&request.python).filter(|_| python_versions.contains(&request.python));
        let Some(python) = python else {
            return Err(Rejection::new(
                ErrorCode::UnsupportedPython,
                format!(
                    "Python {:?} is not supported; there are {}",
                    request.python,
                    python_versions.join(", ")
                ),
            ));
        };
        if !variants.contains(&request.variant) {
            return Err(Rejection::new(
                ErrorCode::UnsupportedVariant,
                format!(
                    "the base {:?} is not there; there are {}",
                    request.variant,
                    variants.join(", ")
                ),
            ));
        }
        Ok(python)
    }

    /// On a thread where it may take its time, and where a parser that dies takes nothing with it.
    async fn validate(
        self: &Arc<Self>,
        request: &Request,
        python: PythonVersion,
    ) -> Result<Requirements, Error> {
        let began = Instant::now();
        let this = Arc::clone(self);
        let (code, requirements) = (request.code.clone(), request.requirements.clone());
        let checked = tokio::task::spawn_blocking(move || {
            validation::check(&code, python, &this.options.validation)?;
            Requirements::parse(&requirements, this.options.max_requirements)
        });
        let requirements = checked.await.map_err(|error| {
            if error.is_panic() {
                Error::Rejected(Rejection::new(
                    ErrorCode::Internal,
                    "a parser gave up on this request; please report it",
                ))
            } else {
                Error::Interrupted
            }
        })??;
        metric_definitions::step("validate", began.elapsed());
        Ok(requirements)
    }
}

/// How long what runs may take to notice a cancel by itself.
const CANCEL_GRACE: std::time::Duration = std::time::Duration::from_secs(90);

async fn cancelled_for_long(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(CANCEL_GRACE).await;
}
