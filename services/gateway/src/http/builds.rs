//! `/builds`

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::functions::answer;
use super::prefer::Wait;
use super::request::{build_id, function_id};
use crate::{Caller, Error, Gateway};

pub(super) const TEXT: [(&str, &str); 1] = [("content-type", "text/plain; charset=utf-8")];

pub(super) async fn get(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    wait: Wait,
) -> Result<Response, Error> {
    let function = gateway.api.build(&caller, build_id(&id)?, None, wait.0).await?;
    Ok(answer(function, wait, StatusCode::OK))
}

pub(super) async fn get_of_function(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((function, build)): Path<(String, String)>,
    wait: Wait,
) -> Result<Response, Error> {
    let function = Some(function_id(&function)?);
    let function = gateway.api.build(&caller, build_id(&build)?, function, wait.0).await?;
    Ok(answer(function, wait, StatusCode::OK))
}

/// 202 while a running build goes on to its end.
pub(super) async fn cancel(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    wait: Wait,
) -> Result<Response, Error> {
    let function = gateway.api.cancel_build(&caller, build_id(&id)?, wait.0).await?;
    Ok(answer(function, wait, StatusCode::ACCEPTED))
}

pub(super) async fn logs(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    let log = gateway.api.build_log(&caller, build_id(&id)?).await?;
    Ok((TEXT, log).into_response())
}
