//! The outbox's way out: at once after the commit, and by the relay for what a dead process left behind.

use std::sync::Arc;
use std::time::Duration;

use mecapy_store::outbox::Message;
use mecapy_store::{PgConnection, PgPool, outbox};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::handler::Outgoing;
use crate::{Bus, Error, metric_definitions as metrics, publisher, trace};

/// Younger rows are being sent by the process that wrote them.
const OVERDUE_AFTER: Duration = Duration::from_secs(3);
const RELAY_EVERY: Duration = Duration::from_secs(1);
const RELAY_BATCH: i64 = 100;
/// Sent rows are deleted together: one statement for many.
const DELETE_BATCH: usize = 500;

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

/// Messages of a transaction that is to be committed.
#[derive(Debug)]
pub struct Written(Vec<(i64, Message)>);

impl Outbox {
    /// Starts the relay too; it ends with `shutdown`.
    pub fn start(bus: Bus, pool: PgPool, service: &'static str, shutdown: CancellationToken) -> Self {
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

    /// Writes messages as part of a transaction.
    pub async fn write(&self, conn: &mut PgConnection, outgoing: Outgoing) -> Result<Written, Error> {
        self.write_in_trace(conn, outgoing, None).await
    }

    pub(crate) async fn write_in_trace(
        &self,
        conn: &mut PgConnection,
        outgoing: Outgoing,
        otherwise: Option<&str>,
    ) -> Result<Written, Error> {
        let traceparent = trace::traceparent(&tracing::Span::current(), otherwise);
        let mut messages = outgoing.into_messages();
        for message in &mut messages {
            message.traceparent.clone_from(&traceparent);
        }
        let ids = outbox::insert(conn, self.0.service, &messages).await?;
        Ok(Written(ids.into_iter().zip(messages).collect()))
    }

    /// Sends them, after the commit. What can't be sent now, the relay sends.
    pub async fn send(&self, written: Written) {
        for (id, message) in written.0 {
            match publisher::publish(&self.0.bus, self.0.service, &message).await {
                Ok(()) => {
                    let _ = self.0.sent.send(id);
                }
                Err(error) => tracing::warn!(%error, subject = message.subject, "left to the outbox relay"),
            }
        }
    }
}

async fn forget_sent(pool: PgPool, mut sent: mpsc::UnboundedReceiver<i64>) {
    let mut ids = Vec::with_capacity(DELETE_BATCH);
    while sent.recv_many(&mut ids, DELETE_BATCH).await > 0 {
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
        loop {
            match relay_once(&bus, &pool, service).await {
                Ok(sent) if sent == RELAY_BATCH as usize => continue,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the outbox waits"),
            }
            break;
        }
    }
}

/// Sends a batch of overdue rows. Their lock keeps other replicas off them.
async fn relay_once(bus: &Bus, pool: &PgPool, service: &'static str) -> Result<usize, Error> {
    let mut transaction = pool.begin().await.map_err(mecapy_store::Error::from)?;
    let rows = outbox::overdue(&mut transaction, service, OVERDUE_AFTER, RELAY_BATCH).await?;
    metrics::outbox_overdue().set(rows.len() as f64);
    let mut sent = Vec::with_capacity(rows.len());
    let mut problem = None;
    for row in &rows {
        let message = Message {
            subject: row.subject.clone(),
            message_id: row.message_id.clone(),
            payload: row.payload.clone(),
            traceparent: row.traceparent.clone(),
        };
        match publisher::publish(bus, service, &message).await {
            Ok(()) => sent.push(row.id),
            Err(error) => {
                problem = Some(error);
                break;
            }
        }
    }
    outbox::delete(&mut transaction, &sent).await?;
    transaction.commit().await.map_err(mecapy_store::Error::from)?;
    match problem {
        Some(error) => Err(error),
        None => Ok(sent.len()),
    }
}
