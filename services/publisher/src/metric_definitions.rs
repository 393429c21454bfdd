//! The metrics of the publisher.

use std::time::Duration;

use mecapy_proto::ErrorCode;
use mecapy_service::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram,
};

const FAILURES: [ErrorCode; 3] =
    [ErrorCode::RegistryUnauthorized, ErrorCode::DigestMismatch, ErrorCode::PushFailed];

/// Says what each tells; what is counted begins at 0: the first of something is a rise too.
pub(crate) fn register() {
    describe_histogram!(
        "mecapy_build_ready_seconds",
        Unit::Seconds,
        "From the request for a function's build to its image being ready, with all that it waited for"
    );
    describe_counter!(
        "mecapy_publish_bytes_total",
        Unit::Bytes,
        "Compressed bytes of published images: sent, mounted, skipped"
    );
    describe_counter!(
        "mecapy_publish_failures_total",
        Unit::Count,
        "Publishing that was refused for good, by code of docs/errors; registry-unauthorized wants an operator"
    );
    describe_counter!(
        "mecapy_publish_staging_total",
        Unit::Count,
        "Images in staging whose build was published: removed, absent, kept for another build, left to the janitor's sweep"
    );
    // Without samples, it is there.
    let _: Histogram = build_ready();
    for how in ["sent", "mounted", "skipped"] {
        bytes(how).increment(0);
    }
    for code in FAILURES {
        failures(code.as_str()).increment(0);
    }
    for outcome in ["removed", "absent", "kept", "left"] {
        staging(outcome).increment(0);
    }
}

pub(crate) fn ready(since_request: Duration) {
    build_ready().record(since_request.as_secs_f64());
}

fn build_ready() -> Histogram {
    histogram!("mecapy_build_ready_seconds")
}

pub(crate) fn bytes(how: &'static str) -> Counter {
    counter!("mecapy_publish_bytes_total", "how" => how)
}

pub(crate) fn failures(code: &'static str) -> Counter {
    counter!("mecapy_publish_failures_total", "code" => code)
}

pub(crate) fn staging(outcome: &'static str) -> Counter {
    counter!("mecapy_publish_staging_total", "outcome" => outcome)
}
