//! What a stream still holds for a consumer: whether a message that is missed may yet come.

use std::sync::Arc;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError, Stream};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_proto::Event;

use crate::topology::{Durable, bind};
use crate::{Bus, Error, envelope};

/// A search reads no more messages than this.
const MAX_READ: usize = 10_000;
/// A queue is read from so many places at once: each message is a call.
const READERS: u64 = 32;

/// When the oldest message was stored that the consumer has not acknowledged. None: nothing waits or is being
/// handled.
pub async fn oldest(bus: &Bus, durable: Durable) -> Result<Option<DateTime<Utc>>, Error> {
    let mut consumer = bind(bus, durable).await?;
    let info = consumer.info().await.map_err(|error| Error::jetstream(durable.name, error))?;
    let after = info.ack_floor.stream_sequence;
    if info.num_pending == 0 && info.num_ack_pending == 0 {
        return Ok(None);
    }
    let stream = stream(bus, durable.stream).await?;
    Ok(first(&stream, durable.subject, after + 1).await?.map(|message| stored_at(&message)))
}

/// The event of this key that was stored between two moments, where a stream still holds it. A look-up by reading:
/// for the rare case.
pub async fn find<E: Event>(
    bus: &Bus,
    stream_name: &str,
    key: &str,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Option<E>, Error> {
    let stream = stream(bus, stream_name).await?;
    let state = &stream.cached_info().state;
    let (mut low, mut high) = (state.first_sequence, state.last_sequence + 1);
    // The first of its subject that is not too old.
    while low < high {
        let middle = low + (high - low) / 2;
        match first(&stream, E::SUBJECT, middle).await? {
            Some(message) if stored_at(&message) < since => low = message.sequence + 1,
            _ => high = middle,
        }
    }
    for _ in 0..MAX_READ {
        let Some(message) = first(&stream, E::SUBJECT, low).await? else { return Ok(None) };
        if stored_at(&message) > until {
            return Ok(None);
        }
        // A clock that is ahead of ours is no reason not to know it.
        let now = Utc::now() + TimeDelta::days(1);
        if let Ok(event) = envelope::read::<E>(Some(&message.headers), &message.payload, now)
            && event.key() == key
        {
            return Ok(Some(event));
        }
        low = message.sequence + 1;
    }
    Ok(None)
}

/// What a work queue holds, read without taking it: all that waits or is being handled, and then what came since.
/// A queue of a hundred thousand messages, which is as long as one may be, takes some seconds.
#[derive(Debug)]
pub struct Reading {
    durable: Durable,
    next: u64,
}

impl Reading {
    pub fn of(durable: Durable) -> Self {
        Self { durable, next: 1 }
    }

    /// Reads on from where it was, and keeps of each event what `take` makes of it. What can't be read as an event is
    /// left out: no consumer can read it either. After an error the same is read again.
    pub async fn on<E: Event, T: Send + 'static>(
        &mut self,
        bus: &Bus,
        take: impl Fn(E) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>, Error> {
        let stream = Arc::new(stream(bus, self.durable.stream).await?);
        let state = &stream.cached_info().state;
        let (low, end) = (self.next.max(state.first_sequence), state.last_sequence + 1);
        if low >= end {
            return Ok(Vec::new());
        }
        let part = (end - low).div_ceil(READERS);
        let starts = (0..READERS).map(|number| low + number * part).filter(|start| *start < end);
        let (subject, take) = (self.durable.subject, Arc::new(take));
        let parts: Vec<Vec<T>> = stream::iter(starts)
            .map(|start| {
                let (stream, take) = (Arc::clone(&stream), Arc::clone(&take));
                async move { read(&stream, subject, start..end.min(start + part), &*take).await }
            })
            .buffered(READERS as usize)
            .try_collect()
            .await?;
        self.next = end;
        Ok(parts.into_iter().flatten().collect())
    }
}

/// The messages of a subject between two sequences. What was taken meanwhile is not there.
async fn read<E: Event, T>(
    stream: &Stream,
    subject: &str,
    sequences: std::ops::Range<u64>,
    take: &(impl Fn(E) -> T + Sync),
) -> Result<Vec<T>, Error> {
    let mut taken = Vec::new();
    let mut next = sequences.start;
    while let Some(message) = first(stream, subject, next).await? {
        if message.sequence >= sequences.end {
            break;
        }
        let now = Utc::now() + TimeDelta::days(1);
        if let Ok(event) = envelope::read::<E>(Some(&message.headers), &message.payload, now) {
            taken.push(take(event));
        }
        next = message.sequence + 1;
    }
    Ok(taken)
}

async fn stream(bus: &Bus, name: &str) -> Result<Stream, Error> {
    let missing = |_| Error::NotSetUp(format!("stream {name}"));
    bus.jetstream.get_stream(name).await.map_err(missing)
}

/// The first message of a subject from a sequence on.
async fn first(stream: &Stream, subject: &str, from: u64) -> Result<Option<StreamMessage>, Error> {
    let found: Result<_, RawMessageError> =
        stream.get_first_raw_message_by_subject(subject, from.max(1)).await;
    match found {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(Error::jetstream(format!("reading {subject}"), error)),
    }
}

fn stored_at(message: &StreamMessage) -> DateTime<Utc> {
    DateTime::from_timestamp(message.time.unix_timestamp(), message.time.nanosecond())
        .unwrap_or_default()
}
