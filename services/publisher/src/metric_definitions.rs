//! The metrics of the publisher.

use mecapy_service::metrics::{Counter, counter};

/// Compressed bytes of published images: sent, mounted, skipped.
pub(crate) fn bytes(how: &'static str) -> Counter {
    counter!("mecapy_publish_bytes_total", "how" => how)
}

/// Publishing that was refused for good, by error code. `registry-unauthorized` wants an operator.
pub(crate) fn failures(code: &'static str) -> Counter {
    counter!("mecapy_publish_failures_total", "code" => code)
}

/// Images in staging whose build was published: `removed`, `absent`, `kept` for another build, `left` to the janitor's
/// sweep after an error.
pub(crate) fn staging(outcome: &'static str) -> Counter {
    counter!("mecapy_publish_staging_total", "outcome" => outcome)
}
