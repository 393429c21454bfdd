//! Messages that could not be handled: kept as they came, with the reason, until somebody replays or drops them.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer, stream};
use bytes::Bytes;
use futures::StreamExt as _;
use mecapy_proto::{Event, SUBJECTS, v1};
use serde::Serialize;
use tracing::Instrument as _;

use crate::envelope::{self, FIRST_TRACE, MESSAGE_ID, TRACEPARENT};
use crate::topology::{DEAD_LETTERS, Durable};
use crate::{Bus, Error, metric_definitions as metrics, trace};

const REASON: &str = "mecapy-reason";
const DELIVERIES: &str = "mecapy-deliveries";
const SERVICE: &str = "mecapy-service";
const CONSUMER: &str = "mecapy-consumer";
const SUBJECT: &str = "mecapy-subject";
/// Where the body is, as stream and sequence, when it was too large to be kept.
const LEFT_OUT: &str = "mecapy-body-left-out";
const MAX_REASON: usize = 1024;
/// Of the 1 MiB that a message may have.
const MAX_PAYLOAD: usize = 1_000_000;

pub(crate) struct Letter<'a> {
    pub subject: &'a str,
    pub reason: &'a str,
    pub deliveries: u64,
    pub service: &'a str,
    pub consumer: &'a str,
}

/// Keeps a message. Buried twice, it is there once: its place in its stream is its id.
pub(crate) async fn bury(
    bus: &Bus,
    letter: &Letter<'_>,
    message: &jetstream::Message,
) -> Result<(), Error> {
    let mut headers = message.headers.clone().unwrap_or_default();
    let place = message.info().map_or_else(
        |_| message.subject.to_string(),
        |info| format!("{}:{}", info.stream, info.stream_sequence),
    );
    headers.insert(MESSAGE_ID, format!("dlq/{}/{place}", letter.consumer));
    tell(letter, &mut headers);
    if headers.get(TRACEPARENT).is_none()
        && let Some(traceparent) = trace::traceparent(&tracing::Span::current(), None)
    {
        headers.insert(TRACEPARENT, traceparent);
    }
    // With our headers, one that barely fitted would not any more: then its place in its stream has to do.
    let payload = if message.payload.len() > MAX_PAYLOAD {
        headers.insert(LEFT_OUT, place.as_str());
        Bytes::new()
    } else {
        message.payload.clone()
    };
    store(bus, letter.subject, headers, payload).await
}

/// Keeps what failed outside of a consumer: an event that, replayed, has it tried again. Kept twice, it is there once.
pub async fn keep<E: Event>(
    bus: &Bus,
    service: &str,
    durable: Durable,
    event: &E,
    reason: &str,
    tries: u64,
) -> Result<(), Error> {
    let message_id = event.message_id();
    let mut headers = envelope::headers(service, E::SUBJECT, &message_id, &event.key());
    headers.insert(MESSAGE_ID, format!("dlq/{}/{message_id}", durable.name));
    let letter =
        Letter { subject: E::SUBJECT, reason, deliveries: tries, service, consumer: durable.name };
    tell(&letter, &mut headers);
    store(bus, E::SUBJECT, headers, event.encode_to_vec().into()).await?;
    metrics::dead_letters(durable.name, "exhausted").increment(1);
    Ok(())
}

/// Why, how often and where.
fn tell(letter: &Letter<'_>, headers: &mut HeaderMap) {
    headers.insert(SUBJECT, letter.subject);
    // A header is one line, and headers count against the largest message.
    let reason = letter.reason.replace(['\r', '\n'], " ");
    headers.insert(REASON, &reason[..reason.floor_char_boundary(MAX_REASON)]);
    headers.insert(DELIVERIES, letter.deliveries.to_string());
    headers.insert(SERVICE, letter.service);
    headers.insert(CONSUMER, letter.consumer);
}

async fn store(bus: &Bus, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<(), Error> {
    let subject = format!("dlq.{subject}");
    let failed = |cause: String| Error::Publish { subject: subject.clone(), cause };
    bus.jetstream
        .publish_with_headers(subject.clone(), headers, payload)
        .await
        .map_err(|error| failed(error.to_string()))?
        .await
        .map_err(|error| failed(error.to_string()))?;
    Ok(())
}

/// A dead letter as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetter {
    /// Its number in the stream of dead letters.
    pub id: u64,
    /// Where it was to go.
    pub subject: String,
    pub reason: String,
    pub deliveries: u64,
    pub service: String,
    pub consumer: String,
    /// The trace in which it failed.
    pub traceparent: Option<String>,
    /// RFC 3339.
    pub at: String,
    /// As JSON where it can be read, else as text with what can't be shown replaced.
    pub body: serde_json::Value,
}

/// The dead letters from `after` on, oldest first, at most `limit`.
pub async fn list(bus: &Bus, after: u64, limit: usize) -> Result<Vec<DeadLetter>, Error> {
    let consumer = bus
        .jetstream
        .create_consumer_on_stream(
            consumer::pull::OrderedConfig {
                deliver_policy: consumer::DeliverPolicy::ByStartSequence {
                    start_sequence: after.saturating_add(1),
                },
                ..Default::default()
            },
            DEAD_LETTERS,
        )
        .await
        .map_err(|error| Error::jetstream("listing dead letters", error))?;
    let last = stream(bus).await?.cached_info().state.last_sequence;
    let mut letters = Vec::new();
    if last <= after {
        return Ok(letters);
    }
    let mut messages = consumer
        .messages()
        .await
        .map_err(|error| Error::jetstream("listing dead letters", error))?;
    while letters.len() < limit {
        // The last one may have been dropped meanwhile: then nothing more comes.
        let Ok(Some(next)) = tokio::time::timeout(Duration::from_secs(2), messages.next()).await
        else {
            break;
        };
        let message = next.map_err(|error| Error::jetstream("listing dead letters", error))?;
        let id = message.info().map(|info| info.stream_sequence).unwrap_or_default();
        letters.push(letter(
            id,
            message.headers.as_ref(),
            &message.payload,
            message.info().ok().map(|info| rfc3339(info.published.unix_timestamp())),
        ));
        if id >= last {
            break;
        }
    }
    Ok(letters)
}

/// One dead letter; none if it is not there.
pub async fn get(bus: &Bus, id: u64) -> Result<Option<DeadLetter>, Error> {
    Ok(raw(bus, id).await?.map(|message| {
        letter(
            id,
            Some(&message.headers),
            &message.payload,
            Some(rfc3339(message.time.unix_timestamp())),
        )
    }))
}

/// Publishes the original message again, to where it was to go, and drops the dead letter. False: not there.
///
/// What comes of it is a trace of its own, with a link to the one in which the message was sent first.
pub async fn replay(bus: &Bus, id: u64) -> Result<bool, Error> {
    let Some(message) = raw(bus, id).await? else { return Ok(false) };
    let header = |name: &str| envelope::get(Some(&message.headers), name);
    let subject = header(SUBJECT).unwrap_or_default();
    let first = header(FIRST_TRACE).or_else(|| header(TRACEPARENT));
    let span = tracing::info_span!(
        parent: None,
        "publish",
        otel.name = format!("publish {subject}"),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = subject,
        messaging.message.body.size = message.payload.len() as i64,
        dead_letter.id = id as i64,
    );
    trace::link(&span, first);
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter() {
        let name: &str = name.as_ref();
        let is_of_this_try = name.starts_with("mecapy-")
            || name.eq_ignore_ascii_case(MESSAGE_ID)
            || name.eq_ignore_ascii_case(TRACEPARENT);
        if !is_of_this_try {
            for value in values {
                headers.append(name, value.as_str());
            }
        }
    }
    if let Some(first) = first {
        headers.insert(FIRST_TRACE, first);
    }
    if let Some(traceparent) = trace::traceparent(&span, None) {
        headers.insert(TRACEPARENT, traceparent);
    }
    // Not the first id: the stream may still know it, and would drop this copy.
    headers.insert(MESSAGE_ID, format!("replay/{id}"));
    let failed = |cause: String| Error::Publish { subject: subject.to_owned(), cause };
    let publish = async {
        bus.jetstream
            .publish_with_headers(subject.to_owned(), headers, message.payload.clone())
            .await?
            .await
    };
    publish.instrument(span).await.map_err(|error| failed(error.to_string()))?;
    drop_letter(bus, id).await
}

/// Forgets a dead letter for good. False: not there.
pub async fn drop_letter(bus: &Bus, id: u64) -> Result<bool, Error> {
    if raw(bus, id).await?.is_none() {
        return Ok(false);
    }
    stream(bus)
        .await?
        .delete_message(id)
        .await
        .map_err(|error| Error::jetstream("dropping a dead letter", error))
}

/// How many there are.
pub async fn count(bus: &Bus) -> Result<u64, Error> {
    Ok(stream(bus).await?.cached_info().state.messages)
}

async fn stream(bus: &Bus) -> Result<stream::Stream, Error> {
    bus.jetstream
        .get_stream(DEAD_LETTERS)
        .await
        .map_err(|_| Error::NotSetUp(format!("stream {DEAD_LETTERS}")))
}

async fn raw(bus: &Bus, id: u64) -> Result<Option<jetstream::message::StreamMessage>, Error> {
    match stream(bus).await?.get_raw_message(id).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == stream::LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(Error::jetstream("reading a dead letter", error)),
    }
}

fn rfc3339(unix_seconds: i64) -> String {
    chrono::DateTime::from_timestamp(unix_seconds, 0).map(|at| at.to_rfc3339()).unwrap_or_default()
}

fn letter(id: u64, headers: Option<&HeaderMap>, body: &Bytes, at: Option<String>) -> DeadLetter {
    let header = |name: &str| envelope::get(headers, name).unwrap_or_default().to_owned();
    let subject = header(SUBJECT);
    DeadLetter {
        id,
        reason: header(REASON),
        deliveries: header(DELIVERIES).parse().unwrap_or_default(),
        service: header(SERVICE),
        consumer: header(CONSUMER),
        traceparent: envelope::get(headers, TRACEPARENT).map(str::to_owned),
        at: at.unwrap_or_default(),
        body: readable(&subject, body),
        subject,
    }
}

/// The body as JSON, whatever it came as.
fn readable(subject: &str, body: &[u8]) -> serde_json::Value {
    fn decode<E: Event>(body: &[u8]) -> Option<serde_json::Value> {
        E::decode(body).ok().and_then(|event| serde_json::to_value(event).ok())
    }
    macro_rules! by_subject {
        ($($event:ident),*) => {
            match subject { $(s if s == v1::$event::SUBJECT => decode::<v1::$event>(body),)* _ => None }
        };
    }
    debug_assert!(subject.is_empty() || SUBJECTS.contains(&subject));
    serde_json::from_slice(body)
        .ok()
        .or_else(|| {
            by_subject!(
                BuildRequested,
                BuildDone,
                BuildFailed,
                ScanDone,
                ScanRevoked,
                PushDone,
                PushFailed,
                TaskDispatch,
                TaskDone,
                BaseRequested,
                BaseBuild,
                MirrorRequested,
                MirrorImage,
                MirrorDone,
                CleanupRequested,
                WebhookResend
            )
        })
        .unwrap_or_else(|| serde_json::Value::String(String::from_utf8_lossy(body).into_owned()))
}
