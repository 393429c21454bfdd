//! The span and the metrics of a request.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::uri::Authority;
use axum::http::{Method, Version};
use axum::middleware::Next;
use axum::response::Response;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::{metric_definitions as metrics, trace};

const OTHER: &str = "_OTHER";

pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let method = known(request.method());
    let span = span(&request, method, &route);
    let began = Instant::now();
    let in_flight = InFlight::begin();
    let traceparent = header(&request, "traceparent").map(str::to_owned);
    let answered = mecapy_bus::caused_by(traceparent, next.run(request));
    let response = answered.instrument(span.clone()).await;
    drop(in_flight);
    let (status, took) = (response.status(), began.elapsed());
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR").record("error.type", status.as_str());
    }
    span.in_scope(|| {
        metrics::http_request(method, &route, status.as_u16(), took);
        tracing::debug!(
            status = status.as_u16(),
            duration_ms = took.as_millis() as u64,
            "{method} {route} is answered"
        );
    });
    response
}

/// As OpenTelemetry's conventions for servers of HTTP have it.
fn span(request: &Request, method: &'static str, route: &str) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.request.method_original = Empty,
        http.route = route,
        url.scheme = "http",
        url.path = request.uri().path(),
        server.address = Empty,
        server.port = Empty,
        network.protocol.version = Empty,
        user_agent.original = header(request, "user-agent"),
        http.response.status_code = Empty,
        error.type = Empty,
    );
    if method == OTHER {
        span.record("http.request.method_original", request.method().as_str());
    }
    if let Some(host) = header(request, "host").and_then(|host| host.parse::<Authority>().ok()) {
        span.record("server.address", host.host());
        if let Some(port) = host.port_u16() {
            span.record("server.port", i64::from(port));
        }
    }
    match request.version() {
        Version::HTTP_10 => span.record("network.protocol.version", "1.0"),
        Version::HTTP_2 => span.record("network.protocol.version", "2"),
        _ => span.record("network.protocol.version", "1.1"),
    };
    trace::set_parent(&span, header(request, "traceparent"), header(request, "tracestate"));
    span
}

fn header<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
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
        _ => OTHER,
    }
}
