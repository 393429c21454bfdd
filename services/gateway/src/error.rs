//! Why a call was not answered as asked.

use axum::http::StatusCode;
use mecapy_proto::ErrorCode;

/// How long a client is asked to leave us alone, in seconds.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was sent is wrong: `field` names where.
    #[error("{detail}")]
    Refused { code: ErrorCode, field: &'static str, detail: String },
    /// A field that there isn't, or that has the wrong type.
    #[error("{detail}")]
    Field { field: String, detail: String },
    #[error("no valid API token: send `Authorization: Bearer <token>`")]
    Unauthorized,
    /// Who calls is known, and may not do this.
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("there is no function {0}")]
    UnknownFunction(String),
    #[error("there is no {0}")]
    NotFound(String),
    #[error(
        "function {0} has no version that is ready yet: wait for its build, or see why it failed"
    )]
    NotReady(i64),
    /// A task ended without a result: its own code and message.
    #[error("{detail}")]
    NoResult { code: String, detail: String },
    #[error("the body is not JSON: {0}")]
    MalformedBody(String),
    #[error("the body did not come within {0} s")]
    RequestTimeout(u64),
    #[error("the body has more than {limit} bytes; {hint}")]
    BodyTooLarge { limit: usize, hint: &'static str },
    #[error("send the body as application/json")]
    UnsupportedMediaType,
    /// Ours, and it will pass.
    #[error("{0} can't be reached just now: try again")]
    Unavailable(&'static str, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// Ours, and it won't.
    #[error("something went wrong here; it is logged")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    pub(crate) fn refused(code: ErrorCode, field: &'static str, detail: impl Into<String>) -> Self {
        Self::Refused { code, field, detail: detail.into() }
    }

    pub(crate) fn field_is(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Field { field: field.into(), detail: detail.into() }
    }

    /// One of `docs/errors/`.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code.as_str(),
            Self::Field { .. } => ErrorCode::InvalidField.as_str(),
            Self::Unauthorized => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::UnknownFunction(_) => ErrorCode::UnknownFunction.as_str(),
            Self::NotFound(_) => "not-found",
            Self::NotReady(_) => ErrorCode::FunctionNotReady.as_str(),
            Self::NoResult { code, .. } => code,
            Self::MalformedBody(_) => "malformed-body",
            Self::RequestTimeout(_) => "request-timeout",
            Self::BodyTooLarge { .. } => "body-too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::Unavailable(..) => "unavailable",
            Self::Internal(_) => ErrorCode::Internal.as_str(),
        }
    }

    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Refused { field, .. } => Some(field),
            Self::Field { field, .. } => Some(field),
            _ => None,
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::Refused { code: ErrorCode::CodeTooLarge | ErrorCode::InputsTooLarge, .. }
            | Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Refused { .. } | Self::Field { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::UnknownFunction(_) | Self::NotFound(_) | Self::NoResult { .. } => {
                StatusCode::NOT_FOUND
            }
            Self::NotReady(_) => StatusCode::CONFLICT,
            Self::MalformedBody(_) => StatusCode::BAD_REQUEST,
            Self::RequestTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unavailable(..) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether a look some time later may do better.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(..))
    }

    /// Logs what is ours, once, where the call ends.
    pub(crate) fn log(&self) {
        if let Self::Unavailable(_, Some(cause)) | Self::Internal(cause) = self {
            tracing::error!(
                error = mecapy_service::chain(cause.as_ref()),
                code = self.code(),
                "a call failed"
            );
        }
    }
}

impl From<mecapy_store::Error> for Error {
    fn from(error: mecapy_store::Error) -> Self {
        match error {
            mecapy_store::Error::Database(_) => {
                Self::Unavailable("the database", Some(error.into()))
            }
            other => Self::Internal(other.into()),
        }
    }
}

impl From<mecapy_objects::Error> for Error {
    fn from(error: mecapy_objects::Error) -> Self {
        match error {
            mecapy_objects::Error::TooLarge { .. } => Self::Internal(error.into()),
            other => Self::Unavailable("the object store", Some(other.into())),
        }
    }
}

impl From<mecapy_bus::Error> for Error {
    fn from(error: mecapy_bus::Error) -> Self {
        match error {
            mecapy_bus::Error::Store(error) => error.into(),
            other => Self::Unavailable("NATS", Some(other.into())),
        }
    }
}
