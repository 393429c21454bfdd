//! The outbox's way out: at once after the commit, and by the relay for what a dead process left behind.

use std::sync::Arc;
use std::time::Duration;

use mecapy_proto::BuildId;
use mecapy_store::outbox::Message;
use mecapy_store::stages::Stage;
use mecapy_store::{PgConnection, PgPool, inbox, outbox};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::handler::Outgoing;
use crate::{Bus, Error, metric_definitions as metrics, publisher, trace};

/// Younger rows are being sent by the process that wrote them.
const OVERDUE_AFTER: Duration = Duration::from_secs(3);
const RELAY_EVERY: Duration = Duration::from_secs(1);
const RELAY_BATCH: i64 = 100;
/// Sent rows are deleted together: one statement for many.
const DELETE_BATCH: usize = 1000;
/// Well before the relay would take them for left behind.
const DELETE_AFTER: Duration = Duration::from_millis(50);

/// Sends what transactions wrote. One a process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bus: Bus,
    pool: PgPool,
    service: &'static str,
    sent: mpsc::UnboundedSender<i64>,
}

/// A message that is handled.
#[derive(Debug)]
pub(crate) struct Handled<'a> {
    pub consumer: &'a str,
    pub message_id: &'a str,
    /// What it came with.
    pub traceparent: Option<&'a str>,
    /// What it was of a build.
    pub stage: Option<(BuildId, Stage)>,
}

/// Messages of a transaction that is to be committed.
#[derive(Debug)]
pub struct Written(Vec<(i64, Message)>);

impl Outbox {
    /// Starts the relay too; it ends with `shutdown`.
    pub fn start(
        bus: Bus,
        pool: PgPool,
        service: &'static str,
        shutdown: CancellationToken,
    ) -> Self {
        metrics::register();
        let (sent, receiver) = mpsc::unbounded_channel();
        let this = Self(Arc::new(Inner { bus: bus.clone(), pool: pool.clone(), service, sent }));
        tokio::spawn(forget_sent(pool.clone(), receiver));
        tokio::spawn(relay(bus, pool, service, shutdown));
        this
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.0.bus
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    pub fn service(&self) -> &'static str {
        self.0.service
    }

    /// Writes messages as part of a transaction that no message caused.
    pub async fn write(
        &self,
        conn: &mut PgConnection,
        outgoing: Outgoing,
    ) -> Result<Written, Error> {
        let messages = in_trace(outgoing, trace::current());
        let ids = outbox::insert(conn, self.0.service, &messages).await?;
        Ok(Written(ids.into_iter().zip(messages).collect()))
    }

    /// Marks a message handled, and writes what it sends. None: it was handled already.
    pub(crate) async fn record(
        &self,
        conn: &mut PgConnection,
        handled: Handled<'_>,
        outgoing: Outgoing,
    ) -> Result<Option<Written>, mecapy_store::Error> {
        let Handled { consumer, message_id, traceparent, stage } = handled;
        let traceparent = trace::traceparent(&tracing::Span::current(), traceparent);
        let messages = in_trace(outgoing, traceparent);
        let service = self.0.service;
        let ids = match stage {
            None => inbox::record(conn, consumer, message_id, service, &messages).await?,
            Some((build, stage)) => {
                inbox::record_stage(conn, consumer, message_id, service, &messages, build, &stage)
                    .await?
            }
        };
        Ok(ids.map(|ids| Written(ids.into_iter().zip(messages).collect())))
    }

    /// Sends them, after the commit. What can't be sent now, the relay sends.
    pub async fn send(&self, written: Written) {
        for (id, message) in written.0 {
            match publisher::publish(&self.0.bus, self.0.service, &message).await {
                Ok(()) => {
                    let _ = self.0.sent.send(id);
                }
                Err(error) => {
                    tracing::warn!(%error, subject = message.subject, "left to the outbox relay")
                }
            }
        }
    }
}

/// The messages in this trace, but for those that are of another.
fn in_trace(outgoing: Outgoing, traceparent: Option<String>) -> Vec<Message> {
    let mut messages = outgoing.into_messages();
    for message in &mut messages {
        if message.traceparent.is_none() {
            message.traceparent.clone_from(&traceparent);
        }
    }
    messages
}

async fn forget_sent(pool: PgPool, mut sent: mpsc::UnboundedReceiver<i64>) {
    let mut ids = Vec::with_capacity(DELETE_BATCH);
    while sent.recv_many(&mut ids, DELETE_BATCH).await > 0 {
        tokio::time::sleep(DELETE_AFTER).await;
        while ids.len() < DELETE_BATCH
            && let Ok(id) = sent.try_recv()
        {
            ids.push(id);
        }
        if let Err(error) = delete(&pool, &ids).await {
            // The relay sends them once more, under the same ids, and deletes them.
            tracing::warn!(%error, rows = ids.len(), "sent messages stay in the outbox");
        }
        ids.clear();
    }
}

async fn delete(pool: &PgPool, ids: &[i64]) -> Result<(), mecapy_store::Error> {
    let mut conn = pool.acquire().await?;
    outbox::delete(&mut conn, ids).await
}

async fn relay(bus: Bus, pool: PgPool, service: &'static str, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RELAY_EVERY) => {}
        }
        // A subject that is refused (its stream is full) must not hold up the others.
        let mut blocked = Vec::new();
        loop {
            match relay_once(&bus, &pool, service, &mut blocked).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "the outbox waits");
                    break;
                }
            }
        }
    }
}

/// Sends a batch of overdue rows, and says how many there were. Their lock keeps other replicas off them.
async fn relay_once(
    bus: &Bus,
    pool: &PgPool,
    service: &'static str,
    blocked: &mut Vec<String>,
) -> Result<usize, mecapy_store::Error> {
    let mut transaction = pool.begin().await?;
    let rows =
        outbox::overdue(&mut transaction, service, OVERDUE_AFTER, blocked, RELAY_BATCH).await?;
    metrics::outbox_overdue().set(rows.len() as f64);
    let mut sent = Vec::with_capacity(rows.len());
    for row in &rows {
        if blocked.contains(&row.subject) {
            continue;
        }
        let message = Message {
            subject: row.subject.clone(),
            message_id: row.message_id.clone(),
            payload: row.payload.clone(),
            traceparent: row.traceparent.clone(),
        };
        match publisher::publish(bus, service, &message).await {
            Ok(()) => sent.push(row.id),
            Err(error) => {
                tracing::warn!(%error, subject = row.subject, "the outbox can't send this subject yet");
                blocked.push(row.subject.clone());
            }
        }
    }
    outbox::delete(&mut transaction, &sent).await?;
    transaction.commit().await?;
    Ok(rows.len())
}
