//! `/webhooks` and `/deliveries`

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use mecapy_proto::FunctionId;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::body::{JsonBody, Limit};
use super::request::{delivery_id, webhook_id};
use crate::api::{WebhookPage, WebhookRequest};
use crate::{Caller, Error, Gateway};

/// A secret is for the one who asked, and for no cache on the way.
const NO_STORE: [(&str, &str); 1] = [("cache-control", "no-store")];

pub(super) struct WebhookLimit;

impl Limit for WebhookLimit {
    const BYTES: usize = 16 * 1024;

    fn exceeded() -> Error {
        Error::BodyTooLarge { limit: Self::BYTES, hint: "a URL may have 2048" }
    }
}

pub(super) async fn create(
    State(gateway): State<Gateway>,
    caller: Caller,
    mut body: JsonBody<WebhookLimit>,
) -> Result<Response, Error> {
    let request = WebhookRequest {
        url: body.take("url", "text")?.ok_or_else(|| Error::field_is("url", "url is missing"))?,
        description: body.take("description", "text")?.unwrap_or_default(),
        function: body
            .take::<i64>("function_id", "a whole number")?
            .map(|id| FunctionId::new(id).map_err(|_| Error::UnknownFunction(id.to_string())))
            .transpose()?,
        events: body.take("events", "a list of texts")?,
    };
    body.finish()?;
    let webhook = gateway.api.create_webhook(&caller, request).await?;
    let location = [(LOCATION, format!("/webhooks/{}", webhook.webhook_id))];
    Ok((StatusCode::CREATED, NO_STORE, location, Json(webhook)).into_response())
}

#[derive(Debug, Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    page_size: Option<String>,
    #[serde(default)]
    page_token: String,
    #[serde(default)]
    function_id: Option<String>,
    #[serde(default)]
    status: Option<String>,
}

impl ListQuery {
    fn page(&self) -> Result<WebhookPage, Error> {
        let size = match &self.page_size {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| Error::field_is("page_size", "page_size must be a whole number"))?,
        };
        Ok(WebhookPage { size, token: self.page_token.clone() })
    }
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Response, Error> {
    let function = query
        .function_id
        .as_deref()
        .map(|text| {
            text.parse().map_err(|_| {
                Error::field_is("function_id", "function_id must be a function's number")
            })
        })
        .transpose()?;
    let (webhooks, next) = gateway.api.webhooks(&caller, function, &query.page()?).await?;
    Ok(Json(json!({ "webhooks": webhooks, "next_page_token": next })).into_response())
}

pub(super) async fn get(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    Ok(Json(gateway.api.webhook(&caller, webhook_id(&id)?).await?).into_response())
}

pub(super) async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    gateway.api.delete_webhook(&caller, webhook_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rotate(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    let webhook = gateway.api.rotate_webhook(&caller, webhook_id(&id)?).await?;
    Ok((NO_STORE, Json(webhook)).into_response())
}

pub(super) async fn enable(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    Ok(Json(gateway.api.enable_webhook(&caller, webhook_id(&id)?).await?).into_response())
}

pub(super) async fn test(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    let delivery = gateway.api.test_webhook(&caller, webhook_id(&id)?).await?;
    Ok((StatusCode::ACCEPTED, at(delivery.delivery_id), Json(delivery)).into_response())
}

pub(super) async fn deliveries(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Response, Error> {
    let (id, page, status) = (webhook_id(&id)?, query.page()?, query.status.as_deref());
    let (deliveries, next) = gateway.api.deliveries(&caller, id, status, &page).await?;
    Ok(Json(json!({ "deliveries": deliveries, "next_page_token": next })).into_response())
}

pub(super) async fn delivery(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    Ok(Json(gateway.api.delivery(&caller, delivery_id(&id)?).await?).into_response())
}

pub(super) async fn resend(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Error> {
    let delivery = gateway.api.resend_delivery(&caller, delivery_id(&id)?).await?;
    Ok((StatusCode::ACCEPTED, at(delivery.delivery_id), Json(delivery)).into_response())
}

fn at(id: Uuid) -> [(axum::http::HeaderName, String); 1] {
    [(LOCATION, format!("/deliveries/{id}"))]
}
