//! Errors as pages.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use maud::html;

use super::layout;
use crate::{Error, pages};

pub(super) type Answer = Result<Response, Problem>;

/// An error that is answered by a page.
#[derive(Debug)]
pub(super) struct Problem(Error);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.0.log();
        let mut response = page(self.0.status(), Some(self.0.code()), &self.0.to_string());
        if let Error::Unavailable(..) = self.0 {
            let seconds = crate::error::RETRY_AFTER_SECONDS.into();
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

fn page(status: StatusCode, code: Option<&str>, detail: &str) -> Response {
    let title =
        code.and_then(pages::title).unwrap_or_else(|| status.canonical_reason().unwrap_or("Error"));
    let content = html! {
        p { (super::text::block(detail)) }
        @if let Some(code) = code.filter(|code| pages::page(code).is_some()) {
            p { "What it means: " a href={ "/errors/" (code) } { (code) } }
        }
        p { a href="/console" { "To the overview" } }
    };
    (status, layout::bare(title, &content)).into_response()
}

pub(super) async fn nothing_here() -> Problem {
    Problem(Error::NotFound("page here".to_owned()))
}

/// Gives the errors that others make the form of a page.
pub(super) async fn every_error_is_a_page(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_page = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let detail = match status {
        StatusCode::METHOD_NOT_ALLOWED => "this can't be asked for in this way",
        status if status.is_client_error() => "the request can't be read",
        StatusCode::SERVICE_UNAVAILABLE => "what this page needs does not answer: try again",
        _ => "something went wrong here; it is logged",
    };
    page(status, None, detail)
}
