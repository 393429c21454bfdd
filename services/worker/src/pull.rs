//! One pull: from the registry whose turn it is, and when that fails, the same digest from the other.

use std::sync::Arc;
use std::time::Instant;

use mecapy_engine::{Credentials, Engine, Error as EngineError};
use mecapy_proto::ErrorCode;
use mecapy_proto::v1::CacheOutcome;
use mecapy_registry::{Digest, ImageRef};

use crate::breaker::Turn;
use crate::error::Problem;
use crate::sources::{Source, Sources};
use crate::{Error, metric_definitions as metrics};

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
    /// Pulls, and tells from where. The digest is the engine's to check.
    ///
    /// One that could not be reached lately is asked last: so its time-out is the time of one task, and not of each.
    /// It is asked all the same before the image counts as not to be had.
    pub(crate) async fn pull(
        &self,
        engine: &Engine,
        repository: &str,
        digest: Digest,
    ) -> Result<(ImageRef, CacheOutcome), NotPulled> {
        let mut put_off = Vec::new();
        let mut failed = None;
        for source in self.all() {
            if source.turn() == Turn::Last {
                put_off.push(source);
            } else if let Some(pulled) =
                source.try_pull(engine, self, repository, digest, &mut failed).await?
            {
                return Ok(pulled);
            }
        }
        for source in put_off {
            let pulled = source.try_pull(engine, self, repository, digest, &mut failed).await?;
            if let Some(pulled) = pulled {
                return Ok(pulled);
            }
        }
        let image = format!("{repository}@{digest}");
        Err(match failed {
            Some(error) => NotPulled::Failed { image, error: Arc::new(error) },
            None => NotPulled::Absent { image },
        })
    }
}

impl Source {
    /// None: not from here. `failed` then has the first reason that is another than that the image isn't there.
    async fn try_pull(
        &self,
        engine: &Engine,
        sources: &Sources,
        repository: &str,
        digest: Digest,
        failed: &mut Option<EngineError>,
    ) -> Result<Option<(ImageRef, CacheOutcome)>, NotPulled> {
        let reference = ImageRef::new(self.registry.host(), repository).with_digest(digest);
        let credentials = self.registry.credentials().map(Credentials::from);
        if self.outcome == CacheOutcome::Failover {
            metrics::failover();
        }
        let began = Instant::now();
        let pulled = engine.pull(&reference, credentials.as_ref(), sources.limit).await;
        let outcome = pulled.as_ref().map_or_else(outcome, |()| "ok");
        metrics::pulled(self.role, outcome, began.elapsed());
        let error = match pulled {
            Ok(()) => {
                self.succeeded();
                return Ok(Some((reference, self.outcome)));
            }
            Err(error) => error,
        };
        match &error {
            EngineError::RegistryUnavailable { .. } | EngineError::TransferTimedOut { .. } => {
                self.failed();
            }
            // It is the engine that is away, or the process that ends: another registry is no help.
            EngineError::Unreachable { .. }
            | EngineError::NoAnswer { .. }
            | EngineError::Interrupted { .. } => {
                let image = format!("{repository}@{digest}");
                return Err(NotPulled::Failed { image, error: Arc::new(error) });
            }
            EngineError::ImageNotFound { .. } | EngineError::Unauthorized { .. } => {
                self.succeeded();
            }
            _ => {}
        }
        tracing::warn!(
            image = %reference,
            error = mecapy_service::chain(&error),
            "a registry did not give an image"
        );
        if !matches!(error, EngineError::ImageNotFound { .. }) {
            failed.get_or_insert(error);
        }
        Ok(None)
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
