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
