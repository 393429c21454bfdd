//! The metrics of registry calls. `registry` is the host of the registry, `operation` the kind of
//! call (`manifest_get`, `blob_put`, …).

use std::time::Duration;

use metrics::{
    Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Says what each tells, and what moves to and from a registry begins at 0.
pub(crate) fn register(registry: &str) {
    describe_counter!(
        "registry_requests_total",
        Unit::Count,
        "Calls to a registry; status is that of HTTP, or none without an answer"
    );
    describe_histogram!(
        "registry_request_duration_seconds",
        Unit::Seconds,
        "Time until the headers of a registry's answer; for blob_put this holds the whole upload"
    );
    describe_counter!(
        "registry_retries_total",
        Unit::Count,
        "Calls to a registry that were tried again"
    );
    describe_counter!(
        "registry_blob_bytes_total",
        Unit::Bytes,
        "Blob bytes moved, by direction: received, sent"
    );
    describe_gauge!(
        "registry_stream_limit",
        Unit::Count,
        "Uploads at once that a registry gets now: fewer after it said that it is busy"
    );
    received(registry).increment(0);
    sent(registry).increment(0);
}

/// A call that was answered, or not. `status` is that of HTTP, or `none`.
pub(crate) fn requested(registry: &str, operation: &'static str, status: String, took: Duration) {
    let registry = registry.to_owned();
    histogram!("registry_request_duration_seconds", "registry" => registry.clone(), "operation" => operation)
        .record(took.as_secs_f64());
    counter!("registry_requests_total", "registry" => registry, "operation" => operation, "status" => status)
        .increment(1);
}

pub(crate) fn retried(registry: &str, operation: &'static str) {
    counter!("registry_retries_total", "registry" => registry.to_owned(), "operation" => operation)
        .increment(1);
}

pub(crate) fn received(registry: &str) -> Counter {
    blob_bytes(registry, "received")
}

pub(crate) fn sent(registry: &str) -> Counter {
    blob_bytes(registry, "sent")
}

fn blob_bytes(registry: &str, direction: &'static str) -> Counter {
    counter!("registry_blob_bytes_total", "registry" => registry.to_owned(), "direction" => direction)
}

pub(crate) fn stream_limit(registry: &str, limit: f64) {
    gauge!("registry_stream_limit", "registry" => registry.to_owned()).set(limit);
}
