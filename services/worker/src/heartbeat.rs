//! Tells every few seconds that this worker lives, and what it has: for `mecapy workers`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_bus::{Flow, Pause, WorkerStatus, Workers};
use tokio_util::sync::CancellationToken;

use crate::images::Images;
use crate::pool::Pool;
use crate::running::Running;
use crate::sources::Sources;

/// A third of [`mecapy_bus::topology::WORKER_SILENCE`]: two may be lost.
const BEAT_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Heartbeat {
    pub workers: Workers,
    pub name: String,
    pub slots: usize,
    pub started_at: DateTime<Utc>,
    pub running: Running,
    pub images: Images,
    pub parked: Pool,
    pub sources: Sources,
    pub pause: Pause,
    pub shutdown: CancellationToken,
}

impl Heartbeat {
    pub(crate) async fn beat(self) {
        let mut flow = self.pause.subscribe();
        loop {
            flow.mark_unchanged();
            if let Err(error) = self.workers.tell(&self.status()).await {
                // Readiness tells of NATS; this is not worth more than a line for who looks.
                tracing::debug!(%error, "a sign of life was not sent");
            }
            tokio::select! {
                () = tokio::time::sleep(BEAT_EVERY) => {}
                // At once, that an operator drains it or takes it back.
                Ok(()) = flow.changed() => {}
                // And that it stops.
                () = self.shutdown.cancelled(), if !self.shutdown.is_cancelled() => {}
            }
        }
    }

    fn status(&self) -> WorkerStatus {
        let flow = self.pause.flow();
        let (images, image_bytes) = self.images.cached();
        WorkerStatus {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            seen_at: Utc::now(),
            slots: self.slots,
            running: self.running.count(),
            is_stopping: self.shutdown.is_cancelled(),
            is_draining: flow != Flow::Takes,
            is_drained: flow == Flow::Rests,
            images: images.iter().map(ToString::to_string).collect(),
            image_bytes,
            parked: self.parked.status(),
            registries: self.sources.status(),
        }
    }
}
