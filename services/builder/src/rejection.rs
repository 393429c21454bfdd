//! A refusal that the user can act on.

use mecapy_proto::ErrorCode;

/// What was refused, under which code, in words for the user.
///
/// A rejection is permanent: the same request is refused again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Rejection {
    pub code: ErrorCode,
    pub message: String,
}

impl Rejection {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
