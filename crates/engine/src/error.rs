//! What can go wrong with the engine, and what the caller can do about it.

use std::time::Duration;

use bollard::errors::Error as EngineError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the engine's address `{host}` is not one of unix:///path, tcp://host:port")]
    Host { host: String },
    #[error("the engine at {host} can't be reached ({call})")]
    Unreachable { host: String, call: &'static str, source: EngineError },
    #[error("the engine did not answer within {limit:?} ({call})")]
    NoAnswer { call: &'static str, limit: Duration },
    #[error("the engine refused to {call}: {message} (status {status})")]
    Refused { call: &'static str, status: u16, message: String },
    #[error("the engine's answer broke off ({call})")]
    Broken { call: &'static str, source: EngineError },
    #[error("the engine's answer has no {what} ({call})")]
    Incomplete { call: &'static str, what: &'static str },
    /// The task that does the work was ended with its runtime.
    #[error("the process is shutting down ({call})")]
    Interrupted { call: &'static str },

    #[error("the file `{path}` can't be put into the build context")]
    Context { path: String, source: std::io::Error },
    /// The build itself failed. `exit_code` is the failed step's; `None` when it failed before or
    /// between steps (a bad Dockerfile). `tail` is the log's last lines.
    #[error("the build failed: {message}")]
    Failed { exit_code: Option<i64>, message: String, tail: Vec<String> },
    #[error("the build was ended at its limit of {limit:?}")]
    TimedOut { limit: Duration, tail: Vec<String> },
    #[error("the build needed more than its {memory_bytes} bytes of memory")]
    OutOfMemory { memory_bytes: u64, tail: Vec<String> },
    /// Its step's containers would have had no limit of processes.
    #[error(
        "the engine does not limit the processes of a build: its control groups must have `pids`, and it must let containers be updated"
    )]
    NoProcessLimit,
    #[error("the build was cancelled")]
    Cancelled,

    #[error("the image {image} does not exist")]
    ImageNotFound { image: String },
    #[error("the registry does not let us have {image}: {message}")]
    Unauthorized { image: String, message: String },
    #[error("the registry of {image} can't be used now: {message}")]
    RegistryUnavailable { image: String, message: String },
    #[error("{image} was not moved within {limit:?}")]
    TransferTimedOut { image: String, limit: Duration },
    #[error("what the registry gave for {image} has another digest: {message}")]
    DigestMismatch { image: String, message: String },
    #[error("the image {image} is used by a container: {message}")]
    ImageInUse { image: String, message: String },
    #[error("{image} has no tag to push")]
    NoTag { image: String },

    #[error("a container named {name} is there already")]
    NameTaken { name: String },
    /// The container was made but its first process can't be started: a broken image or runtime.
    #[error("the container of {image} can't be started: {message}")]
    Start { image: String, message: String },
    /// It was to wait for a task, and ended or said something else.
    #[error("the container of {image} can't be parked: {reason}")]
    NotParked { image: String, reason: String },
    /// The code that the container saw is not the one that was laid out for it.
    #[error("the container {name} began with other code than was laid out")]
    OtherCode { name: String },
    /// Something else removed or restarted it while it ran.
    #[error("the container {name} was lost while it ran")]
    ContainerLost { name: String },
}

impl Error {
    /// May the same call succeed later without anybody changing anything?
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::Broken { .. }
            | Self::Incomplete { .. }
            // Another engine may do it.
            | Self::NoProcessLimit
            | Self::Interrupted { .. }
            | Self::RegistryUnavailable { .. }
            | Self::TransferTimedOut { .. }
            | Self::ImageInUse { .. }
            | Self::NameTaken { .. }
            | Self::ContainerLost { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Host { .. }
            | Self::Context { .. }
            | Self::Failed { .. }
            | Self::TimedOut { .. }
            | Self::OutOfMemory { .. }
            | Self::Cancelled
            | Self::ImageNotFound { .. }
            | Self::Unauthorized { .. }
            | Self::DigestMismatch { .. }
            | Self::NoTag { .. }
            | Self::NotParked { .. }
            | Self::OtherCode { .. }
            | Self::Start { .. } => false,
        }
    }

    pub(crate) fn of_call(call: &'static str, host: &str, error: EngineError) -> Self {
        match error {
            EngineError::DockerResponseServerError { status_code, message } => {
                Self::Refused { call, status: status_code, message }
            }
            source @ (EngineError::IOError { .. }
            | EngineError::HyperLegacyError { .. }
            | EngineError::SocketNotFoundError(_)) => {
                Self::Unreachable { host: host.to_owned(), call, source }
            }
            source => Self::Broken { call, source },
        }
    }

    /// The client library can't end a stream whose last line end came in a piece of its own: nothing that the engine said
    /// is missing then.
    pub(crate) fn is_a_lone_line_end(error: &EngineError) -> bool {
        matches!(error, EngineError::IOError { err } if err.to_string() == "bytes remaining on stream")
    }

    /// The engine passes a registry's errors on as text only, and as a status only before it has
    /// sent anything. The words are those of the engine and of the distribution specification.
    pub(crate) fn of_registry(image: &str, message: String) -> Self {
        let image = image.to_owned();
        let text = message.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&[
            "connection refused",
            "connection reset",
            "timeout",
            "deadline exceeded",
            "no such host",
            "unexpected eof",
            "no route to host",
            "toomanyrequests",
            "unexpected http status: 5",
        ]) {
            Self::RegistryUnavailable { image, message }
        } else if says(&["unauthorized", "authentication required", "no basic auth", "denied"]) {
            Self::Unauthorized { image, message }
        } else if says(&["verification failed", "unexpected digest", "digest mismatch"]) {
            Self::DigestMismatch { image, message }
        } else if says(&["manifest unknown", "not found", "name unknown", "name not known"]) {
            Self::ImageNotFound { image }
        } else {
            Self::RegistryUnavailable { image, message }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of engine 20.10 and later, as they came.
    #[test]
    fn the_engines_words_about_a_registry_are_told_apart() {
        let of = |message: &str| Error::of_registry("r/i", message.to_owned());
        for unavailable in [
            "Get \"http://127.0.0.1:9/v2/\": dial tcp 127.0.0.1:9: connect: connection refused",
            "Get \"https://r/v2/\": net/http: request canceled (Client.Timeout exceeded)",
            "received unexpected HTTP status: 503 Service Unavailable",
            "dial tcp: lookup registry.invalid: no such host",
            "something never seen before",
        ] {
            let error = of(unavailable);
            assert!(matches!(error, Error::RegistryUnavailable { .. }), "{unavailable}");
            assert!(error.is_transient());
        }
        for refused in [
            "Head \"http://r/v2/a/manifests/1\": no basic auth credentials",
            "unauthorized: authentication required",
            "pull access denied for a, repository does not exist or may require 'docker login'",
        ] {
            assert!(matches!(of(refused), Error::Unauthorized { .. }), "{refused}");
        }
        for absent in [
            "manifest for r/a@sha256:00 not found: manifest unknown: manifest unknown",
            "not found",
        ] {
            assert!(matches!(of(absent), Error::ImageNotFound { .. }), "{absent}");
        }
        let other = "manifest verification failed for digest sha256:00";
        assert!(matches!(of(other), Error::DigestMismatch { .. }));
    }
}
