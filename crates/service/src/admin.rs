//! The admin port: `/livez`, `/readyz`, `/metrics`.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::Health;
use crate::telemetry::Metrics;

#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub health: Health,
    pub shutdown: CancellationToken,
    pub metrics: Metrics,
}

pub(crate) async fn serve(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(admin);
    axum::serve(listener, router).await
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let missing = admin.health.missing();
    if admin.shutdown.is_cancelled() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(serde_json::json!({ "ready": false, "stopping": true })),
        )
    } else if missing.is_empty() {
        (StatusCode::OK, Json(serde_json::json!({ "ready": true })))
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(serde_json::json!({ "ready": false, "waiting_for": missing })),
        )
    }
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (kind, text) = admin.metrics.render(accept.contains("application/openmetrics-text"));
    ([(CONTENT_TYPE, kind)], text)
}

/// Asks a service of this machine whether it is ready: what a container's health check runs.
pub(crate) async fn probe(listen: SocketAddr) -> Result<(), String> {
    let host = if listen.ip().is_unspecified() {
        SocketAddr::from(([127, 0, 0, 1], listen.port()))
    } else {
        listen
    };
    let ask = async {
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(std::time::Duration::from_secs(3), ask)
        .await
        .map_err(|_| format!("{host} does not answer"))?
        .map_err(|error| format!("{host}: {error}"))?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status == "200" { Ok(()) } else { Err(answer.lines().last().unwrap_or_default().to_owned()) }
}
