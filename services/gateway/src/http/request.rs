//! What requests have in common: who calls, ids in paths, the key of idempotency.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use mecapy_proto::{BuildId, FunctionId, TaskId};
use uuid::Uuid;

use crate::api::IdempotencyKey;
use crate::{Caller, Error, Gateway};

impl FromRequestParts<Gateway> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Error> {
        let authorization = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        gateway.tokens.caller(authorization)
    }
}

/// `Idempotency-Key`, if it was sent.
pub(super) struct Key(pub Option<IdempotencyKey>);

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let key = parts.headers.get("idempotency-key");
        // Bytes that are no text make a key that is refused.
        key.map(|value| IdempotencyKey::parse(value.to_str().unwrap_or_default()))
            .transpose()
            .map(Self)
    }
}

/// An id that isn't one names nothing.
pub(crate) fn function_id(text: &str) -> Result<FunctionId, Error> {
    text.parse().map_err(|_| Error::UnknownFunction(format!("{:?}", shortened(text))))
}

pub(crate) fn build_id(text: &str) -> Result<BuildId, Error> {
    text.parse()
        .map_err(|_| Error::NotFound(format!("build {:?}: its id is a UUID", shortened(text))))
}

pub(crate) fn task_id(text: &str) -> Result<TaskId, Error> {
    text.parse()
        .map_err(|_| Error::NotFound(format!("task {:?}: its id is a UUID", shortened(text))))
}

pub(crate) fn webhook_id(text: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(text)
        .map_err(|_| Error::NotFound(format!("webhook {:?}: its id is a UUID", shortened(text))))
}

pub(crate) fn delivery_id(text: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(text)
        .map_err(|_| Error::NotFound(format!("delivery {:?}: its id is a UUID", shortened(text))))
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
