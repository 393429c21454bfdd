//! Why a build did not end in an image.

use mecapy_proto::ErrorCode;

use crate::dockerfile::RenderError;
use crate::lock::Unreadable;
use crate::rejection::Rejection;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user has to change something.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error("the build was cancelled")]
    Cancelled,
    #[error("the registry failed while {doing}")]
    Registry { doing: &'static str, source: Box<mecapy_registry::Error> },
    #[error("the Docker engine failed while {doing}")]
    Engine { doing: &'static str, source: Box<mecapy_engine::Error> },
    #[error("the database failed while builders shared what they know")]
    Store(#[from] mecapy_store::Error),
    #[error("builds have no network: {0}")]
    Egress(String),
    /// It was there a moment ago: another builder on the same engine, or an operator, took it away.
    #[error("the image {0} has gone from the Docker engine while it was needed")]
    Vanished(String),
    #[error("the package index can't be used: {0}")]
    Index(String),
    #[error("the machine that builds is short of something: {0}")]
    Machine(String),
    #[error(transparent)]
    Lock(#[from] Unreadable),
    #[error(transparent)]
    Dockerfile(#[from] RenderError),
    #[error("the configuration can't be used: {key}: {problem}")]
    Options { key: &'static str, problem: String },
    /// The task that does the work was ended with its runtime, or died.
    #[error("the work was broken off")]
    Interrupted,
}

impl Error {
    pub(crate) fn registry(doing: &'static str) -> impl FnOnce(mecapy_registry::Error) -> Self {
        move |source| Self::Registry { doing, source: Box::new(source) }
    }

    pub(crate) fn engine(doing: &'static str) -> impl FnOnce(mecapy_engine::Error) -> Self {
        move |source| Self::Engine { doing, source: Box::new(source) }
    }

    /// May the same build succeed later without the user changing anything?
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Registry { source, .. } => source.is_transient(),
            Self::Engine { source, .. } => source.is_transient(),
            Self::Store(_)
            | Self::Egress(_)
            | Self::Vanished(_)
            | Self::Index(_)
            | Self::Machine(_)
            | Self::Interrupted => true,
            Self::Rejected(_)
            | Self::Cancelled
            | Self::Lock(_)
            | Self::Dockerfile(_)
            | Self::Options { .. } => false,
        }
    }

    /// How the user is told. What is ours to mend says so, without details that are none of the user's.
    pub fn rejection(&self) -> Rejection {
        match self {
            Self::Rejected(rejection) => rejection.clone(),
            Self::Cancelled => Rejection::new(ErrorCode::BuildCancelled, "the build was cancelled"),
            Self::Registry { source, .. } if source.is_unauthorized() => Rejection::new(
                ErrorCode::RegistryUnauthorized,
                "the registry refuses our credentials; operators are told",
            ),
            Self::Registry { source, .. } if source.is_digest_mismatch() => Rejection::new(
                ErrorCode::DigestMismatch,
                "an image in the registry is not what its digest says",
            ),
            Self::Registry { .. }
            | Self::Engine { .. }
            | Self::Store(_)
            | Self::Egress(_)
            | Self::Vanished(_)
            | Self::Index(_)
            | Self::Machine(_)
            | Self::Lock(_)
            | Self::Dockerfile(_)
            | Self::Options { .. }
            | Self::Interrupted => Rejection::new(
                ErrorCode::Internal,
                "the build failed for a reason that is not in your code; operators are told",
            ),
        }
    }
}
