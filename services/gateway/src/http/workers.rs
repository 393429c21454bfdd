//! `/workers`

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::view::workers::Worker;
use crate::{Caller, Error, Gateway};

pub(super) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
) -> Result<Json<Value>, Error> {
    Ok(Json(json!({ "workers": gateway.api.workers(&caller).await? })))
}

/// 202 while it has tasks in hand.
pub(super) async fn drain(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Error> {
    let worker = gateway.api.drain_worker(&caller, &name).await?;
    let is_done = matches!(worker.state, "drained" | "away");
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(worker)).into_response())
}

pub(super) async fn resume(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Worker>, Error> {
    Ok(Json(gateway.api.resume_worker(&caller, &name).await?))
}
