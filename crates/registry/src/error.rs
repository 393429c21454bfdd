//! What can go wrong with a registry, in the kinds that callers act on.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use crate::Digest;

/// Why a call failed. `subject` names what was asked for, `host` the registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{value}` is not an image reference: {reason}")]
    InvalidReference { value: String, reason: String },

    #[error("`{value}` is not a digest: {reason}")]
    InvalidDigest { value: String, reason: &'static str },

    #[error("the registry `{host}` is not configured well: {reason}")]
    Options { host: String, reason: String },

    #[error("the CA bundle {} can't be used", path.display())]
    CaBundle {
        path: PathBuf,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },

    #[error("{host} refuses access to {subject}: {detail}")]
    Unauthorized { host: String, subject: String, detail: String },

    #[error("{host} has no {subject}")]
    NotFound { host: String, subject: String },

    #[error("{subject} from {host} has digest {actual} where {expected} was expected")]
    DigestMismatch { host: String, subject: String, expected: Digest, actual: Digest },

    #[error("{subject} from {host} has {actual} bytes where {expected} were expected")]
    SizeMismatch { host: String, subject: String, expected: u64, actual: u64 },

    #[error("{subject} from {host} has more than the {limit} bytes allowed")]
    TooLarge { host: String, subject: String, limit: u64 },

    #[error("{host} can't be reached")]
    Unreachable {
        host: String,
        #[source]
        source: reqwest::Error,
    },

    #[error("the TLS certificate of {host} is not accepted")]
    Certificate {
        host: String,
        #[source]
        source: reqwest::Error,
    },

    #[error("the connection to {host} broke while moving {subject}")]
    Interrupted {
        host: String,
        subject: String,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },

    #[error("{host} did nothing about {subject} for {} s", after.as_secs())]
    TimedOut { host: String, subject: String, after: Duration },

    #[error("{host} answered {status} for {subject}: {detail}")]
    Status {
        host: String,
        subject: String,
        status: u16,
        detail: String,
        retry_after: Option<Duration>,
    },

    #[error("the answer of {host} for {subject} makes no sense: {reason}")]
    Protocol { host: String, subject: String, reason: String },

    #[error("{host} took {subject} and does not have it")]
    Lost { host: String, subject: String },

    #[error("somebody else writes {subject} at {host} at the same time")]
    Contended { host: String, subject: String },

    #[error("the manifest {digest} can't be used: {reason}")]
    Manifest { digest: Digest, reason: String },

    #[error("the layer can't be made: {reason}")]
    Layer { reason: String },
}

impl Error {
    /// A 404 to what was to be written: what is lacking is at the destination, and not at a source.
    pub(crate) fn lacking(host: String, subject: String, detail: impl Into<String>) -> Self {
        Self::Status { host, subject, status: 404, detail: detail.into(), retry_after: None }
    }

    /// Whether the same call may succeed later: no connection, a broken one, or a busy server.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Interrupted { .. }
            | Self::TimedOut { .. }
            | Self::Lost { .. }
            | Self::Contended { .. } => true,
            // 501 and 505 say that the server will never do it.
            Self::Status { status, .. } => {
                matches!(status, 408 | 425 | 429)
                    || (*status >= 500 && !matches!(status, 501 | 505))
            }
            _ => false,
        }
    }

    /// Whether the credentials are missing, wrong, or not enough.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Unauthorized { .. })
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether content was not what its digest or descriptor said.
    pub fn is_digest_mismatch(&self) -> bool {
        matches!(self, Self::DigestMismatch { .. } | Self::SizeMismatch { .. })
    }

    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Sorts a failure of the HTTP client. URLs are taken out: those of redirects and of upload
    /// sessions carry signatures.
    pub(crate) fn transport(host: &str, subject: &str, source: reqwest::Error) -> Self {
        let source = source.without_url();
        let host = host.to_owned();
        if is_certificate_failure(&source) {
            Self::Certificate { host, source }
        } else if source.is_connect() {
            Self::Unreachable { host, source }
        } else if source.is_redirect() || source.is_builder() {
            Self::Protocol { host, subject: subject.to_owned(), reason: innermost(&source) }
        } else {
            Self::Interrupted { host, subject: subject.to_owned(), source: source.into() }
        }
    }
}

/// A certificate that is refused now is refused in a minute too, so it must not look like a
/// server that is down.
fn is_certificate_failure(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return matches!(tls, rustls::Error::InvalidCertificate(_));
        }
        // An I/O error gives as its source not what it holds, but the source of that.
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    false
}

fn innermost(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
