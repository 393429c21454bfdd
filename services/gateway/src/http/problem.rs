//! Errors as `application/problem+json` (RFC 9457).

use std::any::Any;

use axum::Json;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::RETRY_AFTER_SECONDS;
use crate::{Error, pages};

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

#[derive(Debug, Serialize)]
struct Problem<'e> {
    /// Where the code's page is, here.
    r#type: String,
    title: &'e str,
    status: u16,
    detail: String,
    code: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'e str>,
}

fn problem(status: StatusCode, code: &str, field: Option<&str>, detail: String) -> Response {
    let title = pages::title(code).unwrap_or_else(|| status.canonical_reason().unwrap_or("Error"));
    let body = Problem {
        r#type: format!("/errors/{code}"),
        title,
        status: status.as_u16(),
        detail,
        code,
        field,
    };
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    response
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.log();
        let mut response = problem(self.status(), self.code(), self.field(), self.to_string());
        match self {
            Self::Unauthorized => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Unavailable(..) => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            _ => {}
        }
        response
    }
}

pub(super) async fn no_such_route(uri: Uri) -> Error {
    let path: String = uri.path().chars().take(200).collect();
    Error::NotFound(format!("{path} here: see /openapi.json"))
}

pub(crate) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    Error::Internal(format!("a handler panicked: {message}").into()).into_response()
}

/// Gives the errors that axum makes by itself the form of all others.
pub(super) async fn every_error_is_a_problem(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let response = next.run(request).await;
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.headers().get(CONTENT_TYPE) == Some(&PROBLEM_JSON) {
        return response;
    }
    let (code, detail) = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method-not-allowed", format!("{method} is not allowed here"))
        }
        StatusCode::NOT_FOUND => ("not-found", "there is nothing here".to_owned()),
        status if status.is_client_error() => {
            ("malformed-body", "the request can't be read".to_owned())
        }
        _ => ("internal", "something went wrong here; it is logged".to_owned()),
    };
    let (parts, _) = response.into_parts();
    let mut problem = problem(status, code, None, detail);
    for (name, value) in &parts.headers {
        // What says something besides the body: Allow, above all.
        if name != CONTENT_TYPE && name != CONTENT_LENGTH {
            problem.headers_mut().append(name, value.clone());
        }
    }
    problem
}
