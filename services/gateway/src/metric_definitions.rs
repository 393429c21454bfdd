//! The metrics of the gateway.

use std::time::Duration;

use mecapy_service::metrics::{
    Counter, Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

/// Says what each tells; what is counted begins at 0.
pub(crate) fn register() {
    describe_counter!(
        "mecapy_http_requests_total",
        Unit::Count,
        "HTTP requests; route is a pattern, never a path"
    );
    describe_histogram!(
        "mecapy_http_request_duration_seconds",
        Unit::Seconds,
        "From an HTTP request to its answer, with what it waited for (Prefer: wait)"
    );
    describe_gauge!("mecapy_http_in_flight", Unit::Count, "HTTP requests that are being answered");
    describe_counter!(
        "mecapy_grpc_requests_total",
        Unit::Count,
        "gRPC calls; status is a gRPC code, such as NotFound"
    );
    describe_histogram!(
        "mecapy_grpc_request_duration_seconds",
        Unit::Seconds,
        "From a gRPC call to its answer"
    );
    describe_gauge!(
        "mecapy_gateway_waiters",
        Unit::Count,
        "Calls and streams that wait for a build or a task"
    );
    describe_gauge!(
        "mecapy_gateway_outbox_waiting",
        Unit::Count,
        "Messages that are committed and not yet with the stream"
    );
    describe_counter!("mecapy_gateway_accepted_total", Unit::Count, "Accepted work: build, task");
    describe_counter!(
        "mecapy_console_log_ins_total",
        Unit::Count,
        "Log-ins to the console: done, wrong_token, too_many"
    );
    for outcome in ["done", "wrong_token", "too_many"] {
        log_ins(outcome).increment(0);
    }
    for what in ["build", "task"] {
        accepted_work(what).increment(0);
    }
    waiters().increment(0.0);
    http_in_flight().increment(0.0);
}

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

pub(crate) fn waiters() -> Gauge {
    gauge!("mecapy_gateway_waiters")
}

pub(crate) fn outbox_waiting() -> Gauge {
    gauge!("mecapy_gateway_outbox_waiting")
}

/// `what` is build or task.
pub(crate) fn accepted(what: &'static str) {
    accepted_work(what).increment(1);
}

fn accepted_work(what: &'static str) -> Counter {
    counter!("mecapy_gateway_accepted_total", "what" => what)
}

/// Log-ins to the console: done, wrong_token, too_many.
pub(crate) fn console_log_in(outcome: &'static str) {
    log_ins(outcome).increment(1);
}

fn log_ins(outcome: &'static str) -> Counter {
    counter!("mecapy_console_log_ins_total", "outcome" => outcome)
}
