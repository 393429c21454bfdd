//! What keeps a task from being run, of the two kinds.

use std::sync::Arc;

use mecapy_proto::v1::Failure;
use mecapy_proto::{ErrorCode, failure};

/// It may go better later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] mecapy_store::Error),
    #[error(transparent)]
    Objects(#[from] mecapy_objects::Error),
    #[error(transparent)]
    Registry(#[from] mecapy_registry::Error),
    #[error(transparent)]
    Engine(#[from] mecapy_engine::Error),
    #[error("listing the engine's images")]
    LocalImages(#[from] bollard::errors::Error),
    #[error("{host} did not tell about {what} within {seconds} s")]
    RegistrySlow { host: String, what: String, seconds: u64 },
    /// Shared by all who waited for the pull.
    #[error("no registry gave {image}")]
    Pull {
        image: String,
        #[source]
        source: Arc<mecapy_engine::Error>,
    },
    #[error(
        "worker.runtime: the engine has no OCI runtime `{wanted}`: register it in its daemon.json, or take one of {}",
        found.join(", ")
    )]
    NoRuntime { wanted: String, found: Vec<String> },
    #[error("the process is shutting down")]
    Interrupted,
}

/// Why a task does not run, or not now.
#[derive(Debug)]
pub(crate) enum Problem {
    /// For good: the task fails with this.
    Refused(Failure),
    /// The message comes again.
    Passing(Error),
}

impl Problem {
    pub(crate) fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused(failure(code, message))
    }
}

impl<E: Into<Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Passing(error.into())
    }
}
