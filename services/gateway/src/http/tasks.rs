//! `/tasks`

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse, Response};
use mecapy_proto::ErrorCode;
use serde::Deserialize;

use super::body::{JsonBody, Limit};
use super::builds::TEXT;
use super::prefer::Wait;
use super::request::{Key, function_id, task_id};
use crate::api::{LogStream, TaskRequest};
use crate::validate::MAX_INPUTS_BYTES;
use crate::{Caller, Error, Gateway, view};

/// Larger results are not part of the task's JSON.
pub(super) const MAX_INLINE_RESULT: u64 = 1024 * 1024;

/// The inputs and a little around them.
pub(super) struct TaskLimit;

impl Limit for TaskLimit {
    const BYTES: usize = MAX_INPUTS_BYTES + 64 * 1024;

    fn exceeded() -> Error {
        let detail = format!("the inputs have more than {MAX_INPUTS_BYTES} bytes");
        Error::refused(ErrorCode::InputsTooLarge, "inputs", detail)
    }
}

pub(super) async fn run(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    Key(key): Key,
    wait: Wait,
    mut body: JsonBody<TaskLimit>,
) -> Result<Response, Error> {
    let function = function_id(&id)?;
    let request = TaskRequest {
        inputs: body.take_raw("inputs"),
        timeout_ms: body.take("timeout_ms", "a whole number of milliseconds")?.unwrap_or_default(),
        deadline: body.take("deadline", "a time such as 2025-10-04T02:00:00Z")?,
    };
    body.finish()?;
    let task =
        gateway.api.run_task(&caller, function, request, key, wait.0, MAX_INLINE_RESULT).await?;
    let location = [(LOCATION, format!("/tasks/{}", task.task_id))];
    Ok((location, answer(task, wait, StatusCode::ACCEPTED)).into_response())
}

pub(super) async fn get(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    wait: Wait,
) -> Result<Response, Error> {
    let task = gateway.api.task(&caller, task_id(&id)?, wait.0, MAX_INLINE_RESULT).await?;
    Ok(answer(task, wait, StatusCode::OK))
}

pub(super) async fn result(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    wait: Wait,
) -> Result<Response, Error> {
    let result = gateway.api.task_result(&caller, task_id(&id)?, wait.0).await?;
    Ok(([(CONTENT_TYPE, "application/json")], result).into_response())
}

#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    stream: Option<String>,
}

pub(super) async fn logs(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Error> {
    let stream = match query.stream.as_deref() {
        None => LogStream::Both,
        Some("stdout") => LogStream::Stdout,
        Some("stderr") => LogStream::Stderr,
        Some(_) => {
            return Err(Error::field_is("stream", "stream is stdout or stderr; both without it"));
        }
    };
    let log = gateway.api.task_log(&caller, task_id(&id)?, stream).await?;
    Ok((TEXT, log).into_response())
}

/// 202 while a running task goes on to its end.
pub(super) async fn cancel(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    wait: Wait,
) -> Result<Response, Error> {
    let task = gateway.api.cancel(&caller, task_id(&id)?, wait.0).await?;
    Ok(answer(task, wait, StatusCode::ACCEPTED))
}

/// 200 when the task has ended, however it did; else `otherwise`.
fn answer(task: view::Task, wait: Wait, otherwise: StatusCode) -> Response {
    let status = if task.ended { StatusCode::OK } else { otherwise };
    (status, wait.applied().map(|header| [header]), Json(task)).into_response()
}
