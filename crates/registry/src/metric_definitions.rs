//! The metrics of registry calls. `registry` is the host of the registry, `operation` the kind of
//! call (`manifest_get`, `blob_put`, …).

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Calls by `registry`, `operation` and `status` (an HTTP status, or `none` without an answer).
pub const REQUESTS: &str = "registry_requests_total";
/// Seconds until the answer's headers, by `registry` and `operation`. For `blob_put` this holds
/// the whole upload.
pub const REQUEST_DURATION: &str = "registry_request_duration_seconds";
/// Calls tried again, by `registry` and `operation`.
pub const RETRIES: &str = "registry_retries_total";
/// Blob bytes moved, by `registry` and `direction` (`received`, `sent`).
pub const BLOB_BYTES: &str = "registry_blob_bytes_total";
/// Uploads at once that a registry gets now, by `registry`: fewer after it said that it is busy.
pub const STREAM_LIMIT: &str = "registry_stream_limit";

/// Registers the descriptions with the installed recorder.
pub fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Calls to a registry");
    describe_histogram!(REQUEST_DURATION, Unit::Seconds, "Time until a registry answers");
    describe_counter!(RETRIES, Unit::Count, "Calls to a registry that were tried again");
    describe_gauge!(STREAM_LIMIT, Unit::Count, "Uploads at once that a registry gets now");
    describe_counter!(BLOB_BYTES, Unit::Bytes, "Blob bytes moved to and from a registry");
}
