//! One pull: from the primary, and when that fails, the same digest from the fallback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mecapy_engine::{Credentials, Engine, Error as EngineError};
use mecapy_proto::ErrorCode;
use mecapy_proto::v1::CacheOutcome;
use mecapy_registry::{Digest, ImageRef, Registry};

use crate::error::Problem;
use crate::{Error, metric_definitions as metrics};

/// The registries that images come from.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub primary: Registry,
    pub fallback: Option<Registry>,
    /// For one pull from one of them.
    pub limit: Duration,
}

/// Why an image was not pulled. Shared by all who waited.
#[derive(Debug, Clone)]
pub(crate) enum NotPulled {
    /// No registry has it.
    Absent {
        image: String,
    },
    Failed {
        image: String,
        error: Arc<EngineError>,
    },
    Interrupted,
}

impl From<NotPulled> for Problem {
    fn from(not_pulled: NotPulled) -> Self {
        match not_pulled {
            NotPulled::Absent { image } => Self::refused(
                ErrorCode::ImageNotFound,
                format!("no registry has the image {image}"),
            ),
            NotPulled::Failed { image, error } => {
                Self::Passing(Error::Pull { image, source: error })
            }
            NotPulled::Interrupted => Self::Passing(Error::Interrupted),
        }
    }
}

impl Sources {
    pub(crate) fn hosts(&self) -> Vec<&str> {
        std::iter::once(&self.primary).chain(&self.fallback).map(Registry::host).collect()
    }

    /// Pulls, and tells from where. The digest is the engine's to check.
    pub(crate) async fn pull(
        &self,
        engine: &Engine,
        repository: &str,
        digest: Digest,
    ) -> Result<(ImageRef, CacheOutcome), NotPulled> {
        let image = format!("{repository}@{digest}");
        let first = match self.pull_from(engine, "primary", &self.primary, repository, digest).await
        {
            Ok(reference) => return Ok((reference, CacheOutcome::Miss)),
            Err(error) => error,
        };
        // It is the engine that is away, or the process that ends: another registry is no help.
        let is_of_the_engine = matches!(
            first,
            EngineError::Unreachable { .. }
                | EngineError::NoAnswer { .. }
                | EngineError::Interrupted { .. }
        );
        let fallback = match &self.fallback {
            Some(fallback) if !is_of_the_engine => fallback,
            _ => return Err(not_pulled(image, first)),
        };
        metrics::failover();
        tracing::warn!(
            image,
            error = mecapy_service::chain(&first),
            "the primary registry failed, the fallback is asked"
        );
        match self.pull_from(engine, "fallback", fallback, repository, digest).await {
            Ok(reference) => Ok((reference, CacheOutcome::Failover)),
            // It may be on the primary still, which couldn't be asked.
            Err(EngineError::ImageNotFound { .. }) => Err(not_pulled(image, first)),
            Err(error) => Err(not_pulled(image, error)),
        }
    }

    async fn pull_from(
        &self,
        engine: &Engine,
        role: &'static str,
        registry: &Registry,
        repository: &str,
        digest: Digest,
    ) -> Result<ImageRef, EngineError> {
        let reference = ImageRef::new(registry.host(), repository).with_digest(digest);
        let credentials = registry.credentials().map(Credentials::from);
        let began = Instant::now();
        let pulled = engine.pull(&reference, credentials.as_ref(), self.limit).await;
        metrics::pulled(role, pulled.as_ref().map_or_else(outcome, |()| "ok"), began.elapsed());
        pulled.map(|()| reference)
    }
}

fn not_pulled(image: String, error: EngineError) -> NotPulled {
    match error {
        EngineError::ImageNotFound { .. } => NotPulled::Absent { image },
        error => NotPulled::Failed { image, error: Arc::new(error) },
    }
}

fn outcome(error: &EngineError) -> &'static str {
    match error {
        EngineError::ImageNotFound { .. } => "not_found",
        EngineError::Unauthorized { .. } => "unauthorized",
        EngineError::RegistryUnavailable { .. } => "unavailable",
        EngineError::TransferTimedOut { .. } => "timed_out",
        EngineError::DigestMismatch { .. } => "digest_mismatch",
        _ => "error",
    }
}
