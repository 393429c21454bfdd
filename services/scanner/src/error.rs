//! Why a scan could not be made. None of these ever means PASSED.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use mecapy_registry::Digest;

use crate::trivy;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    // An image.
    #[error("the registry did not give what the scan needs")]
    Registry(#[from] mecapy_registry::Error),
    #[error("{digest} is {media_type}, not the manifest of one image")]
    NotAnImage { digest: Digest, media_type: String },
    #[error("the image has {layers} layers; more than {limit} are not read")]
    TooManyLayers { layers: usize, limit: usize },
    #[error("layer {digest} could not be read")]
    Layer { digest: Digest, source: Box<Error> },
    #[error("layer {digest} was not read")]
    NotRead { digest: Digest },
    #[error("the image could not be scanned within {limit:?}")]
    TimedOut { limit: Duration },

    // A layer.
    #[error("the layer could not be decompressed")]
    Read(#[from] io::Error),
    #[error("the layer is no tar archive: {problem}")]
    Archive { problem: &'static str },
    #[error("the layer ends in the middle of {at}")]
    Truncated { at: &'static str },
    #[error("the layer has more than {limit} entries")]
    TooManyEntries { limit: u64 },
    #[error("the layer is more than {limit_bytes} bytes when decompressed")]
    TooLarge { limit_bytes: u64 },
    #[error("{path} has more than {limit_bytes} bytes")]
    FileTooLarge { path: String, limit_bytes: u64 },
    #[error("the layer has more packages, links and whiteouts than fit in {limit_bytes} bytes")]
    IndexTooLarge { limit_bytes: u64 },
    #[error("the layer has a path that leads out of the image: {path:?}")]
    UnsafePath { path: String },
    #[error("{path} is {kind}: what is behind it can't be told from the layer")]
    Unreadable { path: String, kind: &'static str },

    // The advisories.
    #[error("the advisories could not be asked")]
    Advisories(#[from] mecapy_advisories::Error),

    #[error("trivy gave no answer")]
    Trivy(#[from] trivy::Failure),
    #[error("{} is no part of a policy: {problem}", path.display())]
    PolicyFile { path: PathBuf, problem: String },

    // What is kept.
    #[error("what is known of the image's layers could not be read")]
    Store(#[from] mecapy_store::Error),
    #[error("what changed could not be told")]
    Bus(#[from] mecapy_bus::Error),
    #[error("a report could not be written as JSON")]
    Report(#[from] serde_json::Error),
}

impl Error {
    /// Whether trying again can end otherwise. Contents don't change under a digest; servers, clocks and
    /// databases do.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Registry(source) => source.is_transient(),
            Self::Layer { source, .. } => source.is_transient(),
            Self::TimedOut { .. }
            | Self::Store(_)
            | Self::Bus(_)
            | Self::Advisories(_)
            | Self::PolicyFile { .. }
            | Self::Trivy(_) => true,
            Self::NotAnImage { .. }
            | Self::TooManyLayers { .. }
            | Self::NotRead { .. }
            | Self::Read(_)
            | Self::Archive { .. }
            | Self::Truncated { .. }
            | Self::TooManyEntries { .. }
            | Self::TooLarge { .. }
            | Self::FileTooLarge { .. }
            | Self::IndexTooLarge { .. }
            | Self::UnsafePath { .. }
            | Self::Unreadable { .. }
            | Self::Report(_) => false,
        }
    }
}
