//! The codes under which a user or an operator meets an error. Each has a page in `docs/errors/`.

use crate::v1::Failure;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident => $code:literal,)*) => {
        /// Why something was refused or failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
        }
    };
}

codes! {
    // Refused at the door.
    InvalidField => "invalid-field",
    SyntaxError => "syntax-error",
    ForbiddenImport => "forbidden-import",
    ForbiddenCall => "forbidden-call",
    CodeTooLarge => "code-too-large",
    InvalidEncoding => "invalid-encoding",
    TooManyRequirements => "too-many-requirements",
    InvalidRequirement => "invalid-requirement",
    UnsupportedPython => "unsupported-python",
    UnsupportedVariant => "unsupported-variant",
    WebhookRefused => "webhook-refused",
    TooManyWebhooks => "too-many-webhooks",
    // Building.
    UnknownFunction => "unknown-function",
    VersionConflict => "version-conflict",
    SourceMissing => "source-missing",
    RequirementNotFound => "requirement-not-found",
    NoMatchingWheel => "no-matching-wheel",
    DependencyConflict => "dependency-conflict",
    HostNotAllowed => "host-not-allowed",
    BuildTimeout => "build-timeout",
    BuildOutOfMemory => "build-out-of-memory",
    ImageTooLarge => "image-too-large",
    BuildFailed => "build-failed",
    BuildCancelled => "build-cancelled",
    BuildLost => "build-lost",
    // Scanning and publishing.
    ScanFailed => "scan-failed",
    RegistryUnauthorized => "registry-unauthorized",
    DigestMismatch => "digest-mismatch",
    NotScanned => "not-scanned",
    PushFailed => "push-failed",
    // Running.
    FunctionNotReady => "function-not-ready",
    ImageNotFound => "image-not-found",
    ImageNotScanned => "image-not-scanned",
    ImageRevoked => "image-revoked",
    InvalidInputs => "invalid-inputs",
    InputsTooLarge => "inputs-too-large",
    DeadlineExceeded => "deadline-exceeded",
    FunctionFailed => "function-failed",
    TaskTimedOut => "task-timed-out",
    TaskOutOfMemory => "task-out-of-memory",
    OutputMissing => "output-missing",
    OutputInvalid => "output-invalid",
    OutputTooLarge => "output-too-large",
    TaskCancelled => "task-cancelled",
    TaskLost => "task-lost",
    /// Ours: an operator has to look.
    Internal => "internal",
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure without log lines.
pub fn failure(code: ErrorCode, message: impl Into<String>) -> Failure {
    Failure { code: code.as_str().to_owned(), message: message.into(), log_tail: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn every_code_has_a_page_in_docs_errors() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
        for code in ErrorCode::ALL {
            assert!(pages.join(format!("{code}.md")).is_file(), "docs/errors/{code}.md is missing");
        }
    }
}
