//! One message, from its arrival to its ack.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use async_nats::jetstream::{AckKind, Message};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use mecapy_proto::{BuildId, Event};
use mecapy_service::Steps;
use mecapy_store::inbox;
use mecapy_store::stages::{self, Stage};
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::envelope::{self, FIRST_TRACE, TRACEPARENT};
use crate::handler::Rest;
use crate::outbox::Handled;
use crate::topology::{ACK_WAIT, Durable, MAX_DELIVERIES};
use crate::{
    Delivery, Handler, HandlerError, Outbox, Outcome, dead_letters, metric_definitions as metrics,
    trace,
};

/// How the handling ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Handled,
    Duplicate,
    Retried,
    DeadLettered,
    HandedBack,
    PassedOn,
}

impl Ended {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Duplicate => "duplicate",
            Self::Retried => "retried",
            Self::DeadLettered => "dead_lettered",
            Self::HandedBack => "handed_back",
            Self::PassedOn => "passed_on",
        }
    }
}

/// Where a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Queue,
    /// Another replica passed it on.
    Replica,
}

pub(crate) async fn process<E: Event, H: Handler<E>>(
    message: Message,
    durable: Durable,
    handler: &H,
    outbox: &Outbox,
    hand_back: &CancellationToken,
    origin: Origin,
) {
    let (began, started_at) = (Instant::now(), Utc::now());
    let count = message.info().map_or(1, |info| u64::try_from(info.delivered).unwrap_or(1));
    if count > 1 {
        metrics::redeliveries(durable.name).increment(1);
    }
    let traceparent = envelope::get(message.headers.as_ref(), TRACEPARENT)
        .filter(|traceparent| trace::trace_id(traceparent).is_some())
        .map(str::to_owned);
    let span = tracing::info_span!(
        "process",
        otel.name = format!("process {}", durable.subject),
        otel.kind = "consumer",
        otel.status_code = Empty,
        messaging.system = "nats",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = durable.subject,
        messaging.consumer.group.name = durable.name,
        messaging.message.id = Empty,
        messaging.message.body.size = message.payload.len() as i64,
        error.type = Empty,
        delivery = count as i64,
    );
    trace::set_parent(&span, traceparent.as_deref());
    // What was a dead letter is tried in a trace of its own.
    trace::link(&span, envelope::get(message.headers.as_ref(), FIRST_TRACE));
    let in_flight = metrics::in_flight(durable.name);
    in_flight.increment(1.0);
    let attempt = Attempt {
        message: &message,
        durable,
        outbox,
        hand_back,
        origin,
        traceparent,
        count,
        started_at,
        steps: Steps::default(),
    };
    let (ended, rest) = attempt.run(handler).instrument(span.clone()).await;
    in_flight.decrement(1.0);
    metrics::deliveries(durable.name, ended.as_str()).increment(1);
    span.in_scope(|| metrics::handled(durable.name, began.elapsed()));
    drop(span);
    if let Some(rest) = rest {
        rest.await;
    }
}

struct Attempt<'a> {
    message: &'a Message,
    durable: Durable,
    outbox: &'a Outbox,
    hand_back: &'a CancellationToken,
    origin: Origin,
    traceparent: Option<String>,
    count: u64,
    started_at: DateTime<Utc>,
    steps: Steps,
}

/// The stage of a build that the message is.
#[derive(Debug, Clone, Copy)]
struct StageOf {
    build: BuildId,
    name: &'static str,
}

impl Attempt<'_> {
    /// How it ended, and what is still to be done before the slot is free.
    async fn run<E: Event, H: Handler<E>>(&self, handler: &H) -> (Ended, Option<Rest>) {
        let event: E = match envelope::read(
            self.message.headers.as_ref(),
            &self.message.payload,
            Utc::now(),
        ) {
            Ok(event) => event,
            Err(unreadable) => {
                return (self.bury("unreadable", &unreadable.to_string()).await, None);
            }
        };
        let message_id = event.message_id();
        Span::current().record("messaging.message.id", &message_id);
        let stage =
            H::STAGE.zip(event.key().parse().ok()).map(|(name, build)| StageOf { build, name });

        let handled = tokio::select! {
            // A panic is a bug of ours with this message: kept for us to see, instead of coming back for ever.
            handled = AssertUnwindSafe(self.handle(handler, event, &message_id, stage)).catch_unwind() => {
                handled.unwrap_or_else(|_| Err(HandlerError::permanent("the handler panicked: see the service's log")))
            }
            never = self.progress() => match never {},
            () = self.hand_back.cancelled() => {
                self.note(stage, stages::Outcome::HandedBack);
                self.ack(AckKind::Nak(None)).await;
                return (Ended::HandedBack, None);
            }
        };
        let ended = match handled {
            // Whose it is now acknowledges it.
            Ok((Ended::PassedOn, _)) => return (Ended::PassedOn, None),
            Ok((ended, rest)) => {
                self.double_ack().await;
                return (ended, rest);
            }
            Err(HandlerError::Permanent(reason)) => {
                self.note(stage, stages::Outcome::DeadLettered);
                self.bury("permanent", &reason).await
            }
            Err(error) if self.count >= MAX_DELIVERIES => {
                self.note(stage, stages::Outcome::DeadLettered);
                self.bury("exhausted", &error.to_string()).await
            }
            Err(error) => {
                self.note(stage, stages::Outcome::Retried);
                failed("transient");
                let delay = backoff(self.count);
                tracing::warn!(
                    message_id,
                    delivery = self.count,
                    retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                    %error,
                    "{} will be tried again",
                    self.durable.subject
                );
                self.ack(AckKind::Nak(Some(delay))).await;
                Ended::Retried
            }
        };
        (ended, None)
    }

    async fn handle<E: Event, H: Handler<E>>(
        &self,
        handler: &H,
        event: E,
        message_id: &str,
        stage: Option<StageOf>,
    ) -> Result<(Ended, Option<Rest>), HandlerError> {
        if !H::KNOWS_DUPLICATES
            && inbox::contains(self.outbox.pool(), self.durable.name, message_id).await?
        {
            return Ok((Ended::Duplicate, None));
        }
        let mut delivery = Delivery::new(message_id, self.count, self.hand_back.clone());
        if self.origin == Origin::Queue {
            let bus = self.outbox.bus().clone();
            delivery = delivery.with_offering(bus, self.durable, self.message.clone());
        }
        // On the heap: as a part of what is around it, it would be there again with each layer.
        let work = Box::pin(handler.handle(event, &delivery));
        let work = trace::caused_by(self.traceparent.clone(), work);
        let outcome = self.steps.collect(work).await?;
        if outcome.is_passed_on() {
            return Ok((Ended::PassedOn, None));
        }
        self.commit(outcome, message_id, stage).await
    }

    /// Inbox, state and outbox in one transaction; then the messages go out.
    async fn commit(
        &self,
        mut outcome: Outcome,
        message_id: &str,
        stage: Option<StageOf>,
    ) -> Result<(Ended, Option<Rest>), HandlerError> {
        let (after, rest) = (outcome.take_after(), outcome.take_rest());
        let mut transaction =
            self.outbox.pool().begin().await.map_err(mecapy_store::Error::from)?;
        let outgoing = outcome.apply(&mut transaction).await?;
        if let Some(subject) = outgoing.failure() {
            failed(subject);
        }
        // Where nothing comes of it, the build was elsewhere, and this was no stage of it.
        let stage = stage.filter(|_| !outgoing.is_empty());
        let stage = stage.map(|of| (of.build, self.stage(of.name, stages::Outcome::Done)));
        let handled = Handled {
            consumer: self.durable.name,
            message_id,
            traceparent: self.traceparent.as_deref(),
            stage,
        };
        let Some(written) = self.outbox.record(&mut transaction, handled, outgoing).await? else {
            // Dropping the transaction takes the effect back.
            return Ok((Ended::Duplicate, None));
        };
        transaction.commit().await.map_err(mecapy_store::Error::from)?;
        self.outbox.send(written).await;
        if let Some(after) = after {
            after();
        }
        Ok((Ended::Handled, rest))
    }

    fn stage(&self, name: &str, outcome: stages::Outcome) -> Stage {
        let mut steps: Vec<stages::Step> = self.steps.take().into_iter().map(step).collect();
        steps.sort_by_key(|step| step.started_at);
        let traceparent = trace::traceparent(&Span::current(), self.traceparent.as_deref());
        Stage {
            name: name.to_owned(),
            service: self.outbox.service().to_owned(),
            delivery: self.count,
            trace_id: traceparent.as_deref().and_then(trace::trace_id).map(str::to_owned),
            started_at: self.started_at,
            ended_at: Utc::now(),
            outcome,
            steps,
        }
    }

    /// Notes a stage that came to nothing. Beside the answer to the queue, which doesn't wait for a database that may be
    /// what failed.
    fn note(&self, stage: Option<StageOf>, outcome: stages::Outcome) {
        let Some(StageOf { build, name }) = stage else { return };
        let (stage, pool) = (self.stage(name, outcome), self.outbox.pool().clone());
        tokio::spawn(async move {
            if let Err(error) = stages::add(&pool, build, &stage).await {
                tracing::debug!(%error, build.id = %build, "a stage was not noted");
            }
        });
    }

    /// Tells the server that the work goes on; never returns.
    async fn progress(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(ACK_WAIT / 3).await;
            self.ack(AckKind::Progress).await;
        }
    }

    /// Keeps the message as a dead letter, and only then takes it off the queue.
    async fn bury(&self, kind: &'static str, reason: &str) -> Ended {
        failed(kind);
        let letter = dead_letters::Letter {
            subject: self.durable.subject,
            reason,
            deliveries: self.count,
            service: self.outbox.service(),
            consumer: self.durable.name,
        };
        match dead_letters::bury(self.outbox.bus(), &letter, self.message).await {
            Ok(()) => {
                metrics::dead_letters(self.durable.name, kind).increment(1);
                tracing::error!(
                    reason,
                    delivery = self.count,
                    "{} is a dead letter",
                    self.durable.subject
                );
                self.ack(AckKind::Term).await;
                Ended::DeadLettered
            }
            Err(error) => {
                tracing::warn!(%error, reason, "a dead letter could not be kept; it comes again");
                self.ack(AckKind::Nak(Some(backoff(self.count)))).await;
                Ended::Retried
            }
        }
    }

    async fn double_ack(&self) {
        // If it is lost, the message comes again, and the inbox knows it.
        if let Err(error) = self.message.double_ack().await {
            tracing::debug!(%error, "an ack was not confirmed");
        }
    }

    async fn ack(&self, kind: AckKind) {
        if let Err(error) = self.message.ack_with(kind).await {
            tracing::debug!(%error, "an ack was not sent");
        }
    }
}

/// The span tells of it.
fn failed(kind: &str) {
    Span::current().record("otel.status_code", "ERROR").record("error.type", kind);
}

fn step(step: mecapy_service::Step) -> stages::Step {
    let took = TimeDelta::from_std(step.took).unwrap_or_default();
    stages::Step {
        name: step.name.to_owned(),
        started_at: step.started_at,
        ended_at: step.started_at + took,
        failed: step.failed,
    }
}

/// 0.5 s, doubled by each delivery up to 30 s, with a quarter of jitter.
fn backoff(deliveries: u64) -> Duration {
    let doubled = 500_u64.saturating_mul(1 << deliveries.saturating_sub(1).min(6));
    let base = doubled.min(30_000);
    // The clock's nanoseconds are random enough to keep replicas apart.
    let jitter = u64::from(Utc::now().timestamp_subsec_nanos()) % (base / 4).max(1);
    Duration::from_millis(base - base / 8 + jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_to_half_a_minute_and_stays() {
        assert!(backoff(1) < Duration::from_secs(1));
        for deliveries in 1..100 {
            let delay = backoff(deliveries);
            assert!(
                delay >= Duration::from_millis(430) && delay < Duration::from_secs(34),
                "{delay:?}"
            );
        }
        assert!(backoff(7) > Duration::from_secs(20));
    }
}
