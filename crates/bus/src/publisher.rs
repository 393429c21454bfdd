//! Publishing: under an id that makes a second copy harmless, and not done until the stream says so.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use bytes::Bytes;
use mecapy_store::outbox::Message;
use tracing::Instrument as _;

use crate::envelope::{self, TRACEPARENT};
use crate::{Bus, Error, metric_definitions as metrics, trace};

/// A publish while disconnected is buffered and may arrive later: a time-out means unknown, and the same
/// message is sent again.
const LIMIT: Duration = Duration::from_secs(5);

/// Sends one message and awaits the stream's word. A duplicate counts as sent.
pub(crate) async fn publish(bus: &Bus, service: &str, message: &Message) -> Result<(), Error> {
    let subject = message.subject.as_str();
    let span = tracing::info_span!(
        "publish",
        otel.name = format!("publish {subject}"),
        otel.kind = "producer",
        otel.status_code = tracing::field::Empty,
        messaging.system = "nats",
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = subject,
        messaging.message.id = message.message_id,
        messaging.message.body.size = message.payload.len() as i64,
        error.type = tracing::field::Empty,
    );
    trace::set_parent(&span, message.traceparent.as_deref());
    let entity = message.message_id.split_once('/').map_or("", |(_, entity)| entity);
    let mut headers = envelope::headers(service, subject, &message.message_id, entity);
    if let Some(traceparent) = trace::traceparent(&span, message.traceparent.as_deref()) {
        headers.insert(TRACEPARENT, traceparent);
    }
    let failed = |cause: String| Error::Publish { subject: subject.to_owned(), cause };
    let sent = async {
        let send = async {
            bus.jetstream
                .publish_with_headers(
                    subject.to_owned(),
                    headers,
                    Bytes::copy_from_slice(&message.payload),
                )
                .await?
                .await
        };
        match tokio::time::timeout(LIMIT, send).await {
            Ok(Ok(_)) => {
                metrics::published(subject).increment(1);
                Ok(())
            }
            Ok(Err(error)) if error.kind() == PublishErrorKind::StreamNotFound => {
                Err(Error::NotSetUp(format!("the stream of {subject}")))
            }
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", LIMIT.as_secs()))),
        }
    }
    .instrument(span.clone())
    .await;
    if sent.is_err() {
        span.record("otel.status_code", "ERROR").record("error.type", "not_published");
    }
    sent
}
