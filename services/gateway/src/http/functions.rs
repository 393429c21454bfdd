//! `/functions`

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::body::{JsonBody, Limit};
use super::prefer::Wait;
use super::request::{Key, function_id};
use crate::validate::{MAX_CODE_BYTES, Submission};
use crate::{Caller, Error, Gateway, view};

const DEFAULT_PYTHON: &str = "3.11";
const DEFAULT_VARIANT: &str = "slim";

/// Room for code of 1 MiB with its escapes, and requirements.
pub(super) struct SubmissionLimit;

impl Limit for SubmissionLimit {
    const BYTES: usize = 3 * MAX_CODE_BYTES;

    fn exceeded() -> Error {
        Error::BodyTooLarge {
            limit: Self::BYTES,
            hint: "code may have 1048576, requirements 524288",
        }
    }
}

pub(super) async fn submit(
    State(gateway): State<Gateway>,
    caller: Caller,
    Key(key): Key,
    wait: Wait,
    mut body: JsonBody<SubmissionLimit>,
) -> Result<Response, Error> {
    let missing = |field: &'static str| Error::field_is(field, format!("{field} is missing"));
    let submission = Submission {
        name: body.take("name", "text")?.ok_or_else(|| missing("name"))?,
        code: body.take("code", "text")?.ok_or_else(|| missing("code"))?,
        requirements: body
            .take("requirements", "text: the lines of a requirements.txt")?
            .unwrap_or_default(),
        python_version: body
            .take("python_version", "text, such as \"3.11\"")?
            .unwrap_or_else(|| DEFAULT_PYTHON.to_owned()),
        base_variant: body
            .take("base_variant", "text")?
            .unwrap_or_else(|| DEFAULT_VARIANT.to_owned()),
    };
    body.finish()?;
    let function = gateway.api.submit(&caller, submission, key, wait.0).await?;
    Ok(answer(function, wait, StatusCode::ACCEPTED))
}

pub(super) async fn get(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    wait: Wait,
) -> Result<Response, Error> {
    let function = gateway.api.function(&caller, function_id(&id)?, wait.0).await?;
    Ok(answer(function, wait, StatusCode::OK))
}

#[derive(Debug, Deserialize)]
pub(super) struct PageQuery {
    #[serde(default)]
    page_size: Option<String>,
    #[serde(default)]
    page_token: String,
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Response, Error> {
    let size = match query.page_size {
        None => 0,
        Some(text) => text
            .parse()
            .map_err(|_| Error::field_is("page_size", "page_size must be a whole number"))?,
    };
    let page = gateway.api.functions(&caller, size, &query.page_token).await?;
    let body = serde_json::json!({ "functions": page.functions, "next_page_token": page.next });
    Ok(Json(body).into_response())
}

pub(super) async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    gateway.api.delete(&caller, function_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rebuild(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    wait: Wait,
) -> Result<Response, Error> {
    let function = gateway.api.rebuild(&caller, function_id(&id)?, wait.0).await?;
    Ok(answer(function, wait, StatusCode::ACCEPTED))
}

/// 200 when the build has ended, however it did; else `otherwise`.
pub(super) fn answer(function: view::Function, wait: Wait, otherwise: StatusCode) -> Response {
    let status = if function.ended { StatusCode::OK } else { otherwise };
    let location = function
        .build_id
        .filter(|_| otherwise == StatusCode::ACCEPTED)
        .map(|build| [(LOCATION, format!("/functions/{}/builds/{build}", function.function_id))]);
    (status, location, wait.applied().map(|header| [header]), Json(function)).into_response()
}
