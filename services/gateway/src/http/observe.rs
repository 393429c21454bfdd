//! The span and the metrics of a request.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument as _, Span};

use crate::{metric_definitions as metrics, trace};

pub(super) async fn observe(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let method = known(request.method());
    let span = span(&request, method, &route);
    let began = Instant::now();
    let in_flight = InFlight::begin();
    let response = next.run(request).instrument(span.clone()).await;
    drop(in_flight);
    let (status, took) = (response.status(), began.elapsed());
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    metrics::http_request(method, &route, status.as_u16(), took);
    span.in_scope(|| {
        tracing::debug!(
            status = status.as_u16(),
            duration_ms = took.as_millis() as u64,
            "{method} {route} is answered"
        );
    });
    response
}

fn span(request: &Request, method: &'static str, route: &str) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        http.request.method = method,
        http.route = route,
        url.path = request.uri().path(),
        http.response.status_code = tracing::field::Empty,
    );
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    trace::set_parent(&span, header("traceparent"), header("tracestate"));
    span
}

/// Counted down also when the client goes away and the call is dropped.
struct InFlight;

impl InFlight {
    fn begin() -> Self {
        metrics::http_in_flight().increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::http_in_flight().decrement(1.0);
    }
}

/// A method of the caller's own making must not make a series of its own.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}
