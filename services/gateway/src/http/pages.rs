//! What needs no token: where things are, and what they mean.

use axum::Json;
use axum::extract::Path;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

use crate::{Error, pages};

const OPENAPI: &str = include_str!("../../openapi.json");
const DOCS: &str = include_str!("../../docs.html");

pub(super) async fn index() -> Json<Value> {
    Json(json!({
        "name": "mecapy gateway",
        "version": env!("CARGO_PKG_VERSION"),
        "links": {
            "docs": "/docs",
            "openapi": "/openapi.json",
            "functions": "/functions",
        },
    }))
}

pub(super) async fn docs() -> Html<&'static str> {
    Html(DOCS)
}

pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// The page of an error code: what a problem's `type` points to.
pub(super) async fn error(Path(code): Path<String>) -> Result<Response, Error> {
    match pages::page(&code) {
        Some(page) => Ok(([(CONTENT_TYPE, "text/markdown; charset=utf-8")], page).into_response()),
        None => Err(Error::NotFound("error with this code".to_owned())),
    }
}
