//! Why a base image was not built, in words for the operator whose Dockerfile it is.

use mecapy_proto::ErrorCode;

use crate::Error;
use crate::egress::Refused;
use crate::engine_step::has_gone;
use crate::options::Options;
use crate::rejection::Rejection;
use crate::uv::lacks_processes;

/// A step that failed after it was kept from a host.
pub fn for_want_of_a_host(error: Error, refused: &Refused) -> Error {
    let is_of_a_step =
        matches!(&error, Error::Rejected(failed) if failed.code == ErrorCode::BuildFailed);
    match refused.rejection() {
        Some(rejection) if is_of_a_step => rejection.into(),
        _ => error,
    }
}

/// To the operator, whose Dockerfile it is.
pub fn explain(error: mecapy_engine::Error, options: &Options) -> Error {
    use mecapy_engine::Error as Engine;
    let rejected = |code, message: String| Error::Rejected(Rejection::new(code, message));
    if let Some(gone) = has_gone(&error) {
        return gone;
    }
    match error {
        Engine::Cancelled => Error::Cancelled,
        Engine::ImageNotFound { image } => Error::Vanished(image),
        Engine::TimedOut { .. } => rejected(
            ErrorCode::BuildTimeout,
            format!("it was not built within {} s", options.base.limit_seconds),
        ),
        Engine::OutOfMemory { .. } => rejected(
            ErrorCode::BuildOutOfMemory,
            format!("a step needs more than {} MiB of memory", options.memory_bytes >> 20),
        ),
        Engine::Failed { exit_code, message, tail } => rejected(
            ErrorCode::BuildFailed,
            match exit_code {
                Some(code) if lacks_processes(&tail.join("\n")) => format!(
                    "a step ended with status {code}: it needs more processes than the {} of builder.max_processes",
                    options.max_processes
                ),
                Some(code) => format!("a step ended with status {code}; the log says more"),
                None => format!("the engine does not build it: {message}"),
            },
        ),
        source => Error::engine("building the base image")(source),
    }
}
