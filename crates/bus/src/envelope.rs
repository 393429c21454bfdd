//! CloudEvents 1.0 in binary mode: attributes as headers, the event as the body.

use async_nats::HeaderMap;
use chrono::{DateTime, TimeDelta, Utc};
use mecapy_proto::Event;

const SPEC_VERSION: &str = "1.0";
pub(crate) const CONTENT_TYPE: &str = "content-type";
pub(crate) const TRACEPARENT: &str = "traceparent";
/// The `traceparent` that a dead letter had when it was sent first.
pub(crate) const FIRST_TRACE: &str = "mecapy-first-trace";
pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";
const PROTOBUF: &str = "application/protobuf";
const JSON: &str = "application/json";
/// How far clocks may be apart. A message from beyond is not one of ours.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// Why a message can't be read. None of these gets better by trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the body is not {type_name} as protobuf: {cause}")]
    Protobuf { type_name: &'static str, cause: String },
    #[error("the body is not {type_name} as JSON: {cause}")]
    Json { type_name: &'static str, cause: String },
    #[error("content-type {0:?} is not supported: send application/protobuf or application/json")]
    ContentType(String),
    #[error("ce-specversion {0:?} is not supported: send 1.0")]
    SpecVersion(String),
    #[error("ce-type is {given:?} on subject {subject}")]
    Type { given: String, subject: &'static str },
    #[error("ce-time {0} is in the future: check the producer's clock")]
    Future(String),
    #[error("ce-time {0:?} is not an RFC 3339 time")]
    Time(String),
    #[error("the id has a NUL byte in it")]
    Key,
}

/// The headers of an event of ours.
pub(crate) fn headers(service: &str, subject: &str, message_id: &str, entity: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", SPEC_VERSION);
    headers.insert("ce-id", message_id);
    headers.insert("ce-type", subject);
    headers.insert("ce-source", format!("mecapy/{service}"));
    headers.insert("ce-subject", entity);
    headers.insert("ce-time", Utc::now().to_rfc3339());
    headers.insert(CONTENT_TYPE, PROTOBUF);
    headers.insert(MESSAGE_ID, message_id);
    headers
}

pub(crate) fn get<'h>(headers: Option<&'h HeaderMap>, name: &str) -> Option<&'h str> {
    headers?
        .iter()
        .find(|(key, _)| AsRef::<str>::as_ref(*key).eq_ignore_ascii_case(name))
        .and_then(|(_, values)| values.first())
        .map(|value| value.as_str())
}

/// Reads an event. Headers may be missing (`nats pub` by hand); those that are there must be right.
pub(crate) fn read<E: Event>(
    headers: Option<&HeaderMap>,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<E, Unreadable> {
    if let Some(version) = get(headers, "ce-specversion").filter(|version| *version != SPEC_VERSION)
    {
        return Err(Unreadable::SpecVersion(version.to_owned()));
    }
    if let Some(given) = get(headers, "ce-type").filter(|given| *given != E::SUBJECT) {
        return Err(Unreadable::Type { given: given.to_owned(), subject: E::SUBJECT });
    }
    if let Some(time) = get(headers, "ce-time") {
        let at =
            DateTime::parse_from_rfc3339(time).map_err(|_| Unreadable::Time(time.to_owned()))?;
        if at.with_timezone(&Utc) > now + CLOCK_SKEW {
            return Err(Unreadable::Future(time.to_owned()));
        }
    }
    let event: E = body_of(headers, body)?;
    // PostgreSQL holds no such text.
    if event.key().contains('\0') {
        return Err(Unreadable::Key);
    }
    Ok(event)
}

fn body_of<E: Event>(headers: Option<&HeaderMap>, body: &[u8]) -> Result<E, Unreadable> {
    let type_name = E::SUBJECT;
    match get(headers, CONTENT_TYPE).map(|value| value.split(';').next().unwrap_or_default().trim())
    {
        Some(PROTOBUF) => E::decode(body)
            .map_err(|error| Unreadable::Protobuf { type_name, cause: error.to_string() }),
        Some(JSON) => json(body),
        Some(other) => Err(Unreadable::ContentType(other.to_owned())),
        // By hand, without headers: no protobuf message of ours begins with a brace.
        None if body.trim_ascii_start().first() == Some(&b'{') => json(body),
        None => E::decode(body)
            .map_err(|error| Unreadable::Protobuf { type_name, cause: error.to_string() }),
    }
}

fn json<E: Event>(body: &[u8]) -> Result<E, Unreadable> {
    serde_json::from_slice(body)
        .map_err(|error| Unreadable::Json { type_name: E::SUBJECT, cause: error.to_string() })
}

#[cfg(test)]
mod tests {
    use mecapy_proto::v1::BuildRequested;
    use prost::Message as _;

    use super::*;

    fn event() -> BuildRequested {
        BuildRequested { build_id: "b".into(), function_id: 3, ..Default::default() }
    }

    fn read_with(changes: &[(&str, &str)], body: &[u8]) -> Result<BuildRequested, Unreadable> {
        let mut headers = headers("gateway", BuildRequested::SUBJECT, "build.requested/b", "b");
        for (name, value) in changes {
            headers.insert(*name, *value);
        }
        read(Some(&headers), body, Utc::now())
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(read_with(&[], &event().encode_to_vec()), Ok(event()));
        let json = serde_json::to_vec(&event()).unwrap();
        assert_eq!(
            read_with(&[("content-type", "application/json; charset=utf-8")], &json),
            Ok(event())
        );
        assert_eq!(read(None, &json, Utc::now()), Ok(event()));
        assert_eq!(read(None, &event().encode_to_vec(), Utc::now()), Ok(event()));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let body = event().encode_to_vec();
        assert!(matches!(read_with(&[], b"\xff\xff"), Err(Unreadable::Protobuf { .. })));
        assert!(matches!(
            read_with(&[("content-type", "application/json")], b"{"),
            Err(Unreadable::Json { .. })
        ));
        assert!(matches!(
            read_with(&[("content-type", "text/plain")], &body),
            Err(Unreadable::ContentType(_))
        ));
        assert!(matches!(
            read_with(&[("ce-specversion", "2.0")], &body),
            Err(Unreadable::SpecVersion(_))
        ));
        assert!(matches!(
            read_with(&[("ce-type", "push.done")], &body),
            Err(Unreadable::Type { .. })
        ));
        assert!(matches!(
            read_with(&[("ce-time", "2999-01-01T00:00:00Z")], &body),
            Err(Unreadable::Future(_))
        ));
        assert!(matches!(read_with(&[("ce-time", "yesterday")], &body), Err(Unreadable::Time(_))));
        let nul = BuildRequested { build_id: "a\0".into(), ..event() }.encode_to_vec();
        assert_eq!(read_with(&[], &nul), Err(Unreadable::Key));
    }
}
