//! The pages of `docs/errors`, one a code: served here, and what a problem's title is taken from.

macro_rules! pages {
    ($($code:literal,)*) => {
        const PAGES: &[(&str, &str)] =
            &[$(($code, include_str!(concat!("../../../docs/errors/", $code, ".md"))),)*];
    };
}

pages! {
    "body-too-large",
    "build-cancelled",
    "build-failed",
    "build-lost",
    "build-out-of-memory",
    "build-timeout",
    "code-too-large",
    "deadline-exceeded",
    "dependency-conflict",
    "digest-mismatch",
    "forbidden",
    "forbidden-call",
    "forbidden-import",
    "function-failed",
    "function-not-ready",
    "host-not-allowed",
    "image-not-found",
    "image-not-scanned",
    "image-revoked",
    "image-too-large",
    "inputs-too-large",
    "internal",
    "invalid-encoding",
    "invalid-field",
    "invalid-inputs",
    "invalid-requirement",
    "malformed-body",
    "method-not-allowed",
    "no-matching-wheel",
    "not-found",
    "not-scanned",
    "output-invalid",
    "output-missing",
    "output-too-large",
    "push-failed",
    "registry-unauthorized",
    "rejected",
    "request-timeout",
    "requirement-not-found",
    "scan-failed",
    "source-missing",
    "syntax-error",
    "task-cancelled",
    "task-lost",
    "task-out-of-memory",
    "task-timed-out",
    "too-many-requirements",
    "too-many-webhooks",
    "unauthorized",
    "unavailable",
    "unknown-function",
    "unsupported-media-type",
    "unsupported-python",
    "unsupported-variant",
    "version-conflict",
    "webhook-refused",
}

/// The page of a code, in Markdown.
pub(crate) fn page(code: &str) -> Option<&'static str> {
    PAGES.iter().find(|(of, _)| *of == code).map(|(_, page)| *page)
}

/// Its first line.
pub(crate) fn title(code: &str) -> Option<&'static str> {
    page(code)?.lines().next()?.strip_prefix("# ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use mecapy_proto::ErrorCode;

    use super::*;

    /// Codes of the door alone, beside those of the pipeline.
    const DOOR_CODES: &[&str] = &[
        "unauthorized",
        "forbidden",
        "not-found",
        "method-not-allowed",
        "request-timeout",
        "body-too-large",
        "unsupported-media-type",
        "malformed-body",
        "unavailable",
        "rejected",
    ];

    #[test]
    fn every_code_has_a_page_with_a_title_and_every_page_a_code() {
        let codes: BTreeSet<&str> = ErrorCode::ALL
            .iter()
            .map(|code| code.as_str())
            .chain(DOOR_CODES.iter().copied())
            .collect();
        let pages: BTreeSet<&str> = PAGES.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, pages);
        for code in codes {
            assert!(title(code).is_some_and(|title| !title.is_empty()), "{code}");
        }
    }

    #[test]
    fn every_file_is_a_page() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        for file in std::fs::read_dir(folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let code = name.strip_suffix(".md").unwrap_or_default();
            assert!(code == "README" || page(code).is_some(), "{name}");
        }
    }
}
