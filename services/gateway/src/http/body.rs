//! A JSON object as the body: read up to a limit, and field by field, so that each error names its field.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::BytesMut;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::Error;

/// How long a body may take to come.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Of a body that is too large, this much more is read: a client that is still writing would else see a broken
/// connection instead of the answer.
const READ_AWAY: usize = 64 * 1024 * 1024;

/// What bounds the body of a call.
pub(crate) trait Limit {
    const BYTES: usize;

    fn exceeded() -> Error;
}

/// The fields of a body that is at most `L`.
pub(crate) struct JsonBody<L> {
    fields: BTreeMap<String, Box<RawValue>>,
    limit: std::marker::PhantomData<L>,
}

impl<S: Sync, L: Limit> FromRequest<S> for JsonBody<L> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        let typed = request.headers().contains_key(CONTENT_TYPE);
        if typed && !is_json(request.headers()) {
            return Err(Error::UnsupportedMediaType);
        }
        let body = read::<L>(request).await?;
        match (typed, body.is_empty()) {
            (true, _) => Self::parse(&body),
            // No body at all is an object without fields.
            (false, true) => Self::parse(b"{}"),
            (false, false) => Err(Error::UnsupportedMediaType),
        }
    }
}

impl<L> JsonBody<L> {
    fn parse(body: &[u8]) -> Result<Self, Error> {
        let fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(body).map_err(|error| match error.classify() {
                serde_json::error::Category::Data => {
                    Error::MalformedBody(format!("an object is expected: {error}"))
                }
                _ => Error::MalformedBody(error.to_string()),
            })?;
        Ok(Self { fields, limit: std::marker::PhantomData })
    }

    /// The value of a field; none where it is missing or null.
    pub(crate) fn take<T: DeserializeOwned>(
        &mut self,
        field: &'static str,
        expected: &str,
    ) -> Result<Option<T>, Error> {
        let Some(raw) = self.fields.remove(field) else { return Ok(None) };
        serde_json::from_str(raw.get())
            .map_err(|_| Error::field_is(field, format!("{field} must be {expected}")))
    }

    /// The value as it was written.
    pub(crate) fn take_raw(&mut self, field: &'static str) -> Option<Box<RawValue>> {
        self.fields.remove(field)
    }

    /// What was not taken is a slip of the pen: the caller learns of it.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.fields.into_keys().next() {
            None => Ok(()),
            Some(field) => {
                let field: String = field.chars().take(80).collect();
                let detail = format!("there is no field {field:?}");
                Err(Error::field_is(field, detail))
            }
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn read<L: Limit>(request: Request) -> Result<Bytes, Error> {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok())
        .unwrap_or_default();
    tokio::time::timeout(READ_LIMIT, read_up_to::<L>(request.into_body(), announced))
        .await
        .map_err(|_| Error::RequestTimeout(READ_LIMIT.as_secs()))?
}

async fn read_up_to<L: Limit>(body: Body, announced: usize) -> Result<Bytes, Error> {
    let mut stream = body.into_data_stream();
    let mut bytes = BytesMut::with_capacity(announced.min(L::BYTES));
    let mut away = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Error::MalformedBody(error.to_string()))?;
        if away > 0 || bytes.len() + chunk.len() > L::BYTES {
            away += chunk.len();
            bytes.clear();
            if away > READ_AWAY {
                break;
            }
        } else {
            bytes.extend_from_slice(&chunk);
        }
    }
    if away > 0 { Err(L::exceeded()) } else { Ok(bytes.freeze()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Result<JsonBody<()>, Error> {
        JsonBody::parse(text.as_bytes())
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named_with_what_is_expected() {
        let mut body = body(r#"{"name": 5}"#).unwrap();
        let error = body.take::<String>("name", "text").unwrap_err();
        assert_eq!(
            (error.field(), error.to_string().as_str()),
            (Some("name"), "name must be text")
        );
    }

    #[test]
    fn null_is_as_good_as_missing() {
        let mut body = body(r#"{"name": null}"#).unwrap();
        assert_eq!(body.take::<String>("name", "text").unwrap(), None);
        assert_eq!(body.take::<String>("code", "text").unwrap(), None);
        assert!(body.finish().is_ok());
    }

    #[test]
    fn a_field_that_there_is_not_is_named() {
        let error = body(r#"{"requirments": "numpy"}"#).unwrap().finish().unwrap_err();
        assert_eq!(error.field(), Some("requirments"));
    }

    #[test]
    fn a_value_is_kept_as_it_was_written() {
        let mut body =
            body(r#"{"inputs": {"b": 1, "a": 123456789012345678901234567890}}"#).unwrap();
        let raw = body.take_raw("inputs").unwrap();
        assert_eq!(raw.get(), r#"{"b": 1, "a": 123456789012345678901234567890}"#);
    }

    #[test]
    fn what_is_not_an_object_is_malformed() {
        for bad in ["", "{", "[]", "5", "{\"a\":1}x"] {
            assert!(matches!(body(bad), Err(Error::MalformedBody(_))), "{bad}");
        }
    }

    #[test]
    fn json_is_told_by_its_media_type() {
        let is = |value: &'static str| {
            is_json(&HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]))
        };
        assert!(
            is("application/json")
                && is("Application/JSON; charset=utf-8")
                && is("application/vnd.mecapy+json")
        );
        assert!(
            !is("text/plain")
                && !is("application/x-www-form-urlencoded")
                && !is_json(&HeaderMap::new())
        );
    }
}
