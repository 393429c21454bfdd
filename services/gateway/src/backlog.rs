//! How many messages of ours wait to go out: more than a few mean that NATS is away, or the queue of tasks is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use mecapy_store::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{Error, metric_definitions as metrics};

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Cheap to clone and to ask.
#[derive(Debug, Clone)]
pub(crate) struct Backlog {
    waiting: Arc<AtomicI64>,
    limit: i64,
}

impl Backlog {
    /// Looks by itself until `shutdown`.
    pub(crate) fn start(
        pool: PgPool,
        service: &'static str,
        limit: u32,
        shutdown: CancellationToken,
    ) -> Self {
        let this = Self { waiting: Arc::default(), limit: i64::from(limit) };
        let waiting = this.waiting.clone();
        tokio::spawn(async move {
            loop {
                // An error changes nothing: without the database, work is refused anyway.
                if let Ok(count) = mecapy_store::outbox::waiting(&pool, service).await {
                    waiting.store(count, Ordering::Relaxed);
                    metrics::outbox_waiting().set(count as f64);
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        });
        this
    }

    /// Refuses new work while too much waits already.
    pub(crate) fn admit(&self) -> Result<(), Error> {
        if self.waiting.load(Ordering::Relaxed) > self.limit {
            return Err(Error::Unavailable("the queue", None));
        }
        Ok(())
    }
}
