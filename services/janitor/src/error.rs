//! What can go wrong in a run.

use mecapy_bus::HandlerError;
use mecapy_service::ConfigError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cleanup can't be made as it was asked for: {0}")]
    Request(String),
    #[error("run {0:?} is of another kind or target: choose another name")]
    Another(String),
    #[error("an override of the cleanup is wrong")]
    Override(#[from] ConfigError),
    #[error("another replica has taken the cleanup over")]
    Overtaken,
    #[error(
        "PostgreSQL has dropped the run's lock, and another replica may have it: it is gone on with"
    )]
    LockLost,
    #[error(transparent)]
    Bus(#[from] mecapy_bus::Error),
    #[error(transparent)]
    Store(#[from] mecapy_store::Error),
    #[error(transparent)]
    Registry(#[from] mecapy_registry::Error),
    #[error(transparent)]
    Objects(#[from] mecapy_objects::Error),
    #[error("the report can't be written")]
    Report(#[from] serde_json::Error),
}

impl Error {
    /// Whether asking again can't help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Request(_) | Self::Override(_) | Self::Another(_) => true,
            // A registry that refuses now is one that somebody has to look at; the run is gone on with from the
            // dead letter.
            Self::Registry(error) => !error.is_transient(),
            _ => false,
        }
    }
}

impl From<Error> for HandlerError {
    fn from(error: Error) -> Self {
        if error.is_final() {
            Self::permanent(mecapy_service::chain(&error))
        } else {
            Self::transient(error)
        }
    }
}
