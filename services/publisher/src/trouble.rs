//! Why an image isn't out.

use mecapy_proto::v1::Failure;
use mecapy_proto::{ErrorCode, failure};

use crate::metric_definitions as metrics;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Store(#[from] mecapy_store::Error),
    #[error(transparent)]
    Registry(#[from] mecapy_registry::Error),
    #[error(transparent)]
    Objects(#[from] mecapy_objects::Error),
    /// An image goes with its reports, or not at all.
    #[error("{0} is not in S3: put it back, or build the image again")]
    Lost(String),
}

impl Trouble {
    /// Whether the next try may do better.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Store(_) | Self::Objects(_) | Self::Lost(_) => true,
            Self::Registry(error) => error.is_transient(),
        }
    }

    /// What will never do better, in the words of the build's owner.
    pub(crate) fn explain(&self) -> Failure {
        let (code, what) = match self {
            Self::Registry(error) if error.is_unauthorized() => (
                ErrorCode::RegistryUnauthorized,
                "the registry refused our credentials; operators were alerted",
            ),
            Self::Registry(error) if error.is_digest_mismatch() => (
                ErrorCode::DigestMismatch,
                "the image changed between the scan and here, so it was not published",
            ),
            _ => (ErrorCode::PushFailed, "the image could not be published"),
        };
        tracing::error!(
            error = mecapy_service::chain(self),
            code = code.as_str(),
            "publishing was refused"
        );
        metrics::failures(code.as_str()).increment(1);
        failure(code, what)
    }
}
