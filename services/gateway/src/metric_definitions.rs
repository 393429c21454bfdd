//! The metrics of the gateway.

use std::time::Duration;

use mecapy_service::metrics::{Gauge, counter, gauge, histogram};

/// `route` is a pattern, never a path: few series.
pub(crate) fn http_request(method: &str, route: &str, status: u16, took: Duration) {
    let (method, route) = (method.to_owned(), route.to_owned());
    counter!("mecapy_http_requests_total", "method" => method.clone(), "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    histogram!("mecapy_http_request_duration_seconds", "method" => method, "route" => route)
        .record(took.as_secs_f64());
}

pub(crate) fn http_in_flight() -> Gauge {
    gauge!("mecapy_http_in_flight")
}

/// `status` is a gRPC code, such as `NotFound`.
pub(crate) fn grpc_call(method: &'static str, status: String, took: Duration) {
    counter!("mecapy_grpc_requests_total", "method" => method, "status" => status).increment(1);
    histogram!("mecapy_grpc_request_duration_seconds", "method" => method)
        .record(took.as_secs_f64());
}

/// Calls and streams that wait for a build or a task.
pub(crate) fn waiters() -> Gauge {
    gauge!("mecapy_gateway_waiters")
}

/// Messages that are committed and not yet with the stream.
pub(crate) fn outbox_waiting() -> Gauge {
    gauge!("mecapy_gateway_outbox_waiting")
}

/// Accepted work: builds, tasks.
pub(crate) fn accepted(what: &'static str) {
    counter!("mecapy_gateway_accepted_total", "what" => what).increment(1);
}
