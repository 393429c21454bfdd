//! Signs of life of the workers, in a key-value bucket: what is there was said lately.

use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};

use crate::bucket::{Bucket, key};
use crate::topology::WORKERS;
use crate::{Bus, Error};

/// What a worker says of itself. An older or newer one may say less or more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    pub name: String,
    pub version: String,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    /// Tasks that it runs at once, at most.
    pub slots: usize,
    /// Tasks that it has in hand.
    pub running: usize,
    /// It takes no more tasks, since its process ends.
    pub is_stopping: bool,
    /// It takes no more tasks, since an operator wants it so ([`crate::Drains`]).
    pub is_draining: bool,
    /// And it has none in hand any more.
    pub is_drained: bool,
    /// Digests of the function images that it has.
    pub images: Vec<String>,
    pub image_bytes: u64,
    pub parked: Vec<ParkedStatus>,
    pub registries: Vec<RegistryStatus>,
}

/// Containers that wait for functions with the same dependencies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ParkedStatus {
    /// The worker's name for these dependencies.
    pub dependencies: String,
    pub waiting: usize,
    pub starting: usize,
}

/// How a worker finds a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegistryStatus {
    pub host: String,
    /// closed: it is asked. open: it is not asked. half-open: it is tried once.
    pub breaker: String,
}

/// A sign of life, or its end.
#[derive(Debug, Clone)]
pub enum Sign {
    Of(WorkerStatus),
    /// It has ended. What it was called is told by [`WorkerStatus::key`].
    Forgotten {
        key: String,
    },
}

impl WorkerStatus {
    /// What it goes by where only some letters are allowed.
    pub fn key(&self) -> String {
        key(&self.name)
    }

    /// In one word.
    pub const fn state(&self) -> &'static str {
        match () {
            () if self.is_stopping => "stopping",
            () if self.is_drained => "drained",
            () if self.is_draining => "draining",
            () if self.running >= self.slots => "busy",
            () => "free",
        }
    }
}

#[derive(Debug)]
pub struct Workers(Bucket);

impl Workers {
    pub fn new(bus: Bus) -> Self {
        Self(Bucket::new(bus, WORKERS))
    }

    /// Says that a worker lives, and how. Forgotten after [`crate::topology::WORKER_SILENCE`].
    pub async fn tell(&self, status: &WorkerStatus) -> Result<(), Error> {
        self.0.put_value(status.key(), status).await
    }

    /// Forgets a worker that has ended.
    pub async fn forget(&self, name: &str) -> Result<(), Error> {
        self.0.take_out(key(name)).await
    }

    /// What workers say as they say it, beginning with what each said last. Ends when it can't go on.
    pub async fn watch(&self) -> Result<impl Stream<Item = Sign> + Send + use<>, Error> {
        let changes = self.0.watch(">").await?;
        let signs = changes.filter_map(|change| async move {
            match change.body {
                Some(body) => serde_json::from_slice(&body).ok().map(Sign::Of),
                None => Some(Sign::Forgotten { key: change.key }),
            }
        });
        Ok(signs.boxed())
    }

    /// All that live, by name.
    pub async fn list(&self) -> Result<Vec<WorkerStatus>, Error> {
        let mut workers: Vec<WorkerStatus> = self.0.values().await?;
        workers.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_that_keeps_tasks_away_is_told_first() {
        let busy = WorkerStatus { slots: 2, running: 2, ..WorkerStatus::default() };
        assert_eq!(busy.state(), "busy");
        assert_eq!(WorkerStatus { slots: 3, ..busy.clone() }.state(), "free");
        let draining = WorkerStatus { is_draining: true, ..busy };
        assert_eq!(draining.state(), "draining");
        let drained = WorkerStatus { running: 0, is_drained: true, ..draining };
        assert_eq!(drained.state(), "drained");
        assert_eq!(WorkerStatus { is_stopping: true, ..drained }.state(), "stopping");
    }
}
