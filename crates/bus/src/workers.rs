//! Signs of life of the workers, in a key-value bucket: what is there was said lately.

use async_nats::jetstream::kv;
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

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
    /// It takes no more tasks.
    pub is_stopping: bool,
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
}

#[derive(Debug)]
pub struct Workers {
    bus: Bus,
    store: OnceCell<kv::Store>,
}

impl Workers {
    pub fn new(bus: Bus) -> Self {
        Self { bus, store: OnceCell::new() }
    }

    async fn store(&self) -> Result<&kv::Store, Error> {
        self.store
            .get_or_try_init(|| async {
                self.bus
                    .jetstream
                    .get_key_value(WORKERS)
                    .await
                    .map_err(|_| Error::NotSetUp(format!("bucket {WORKERS}")))
            })
            .await
    }

    /// Says that a worker lives, and how. Forgotten after [`crate::topology::WORKER_SILENCE`].
    pub async fn tell(&self, status: &WorkerStatus) -> Result<(), Error> {
        let body = serde_json::to_vec(status).map_err(|error| Error::jetstream(WORKERS, error))?;
        let put = self.store().await?.put(key(&status.name), body.into());
        put.await.map_err(|error| Error::jetstream(WORKERS, error))?;
        Ok(())
    }

    /// Forgets a worker that has ended.
    pub async fn forget(&self, name: &str) -> Result<(), Error> {
        let purge = self.store().await?.purge(key(name));
        purge.await.map_err(|error| Error::jetstream(WORKERS, error))
    }

    /// What workers say as they say it, beginning with what each said last. Ends when it can't go on.
    pub async fn watch(&self) -> Result<impl Stream<Item = Sign> + Send + use<>, Error> {
        let watch = self.store().await?.watch_with_history(">").await;
        let watch = watch.map_err(|error| Error::jetstream(WORKERS, error))?;
        let going = watch.take_while(|entry| std::future::ready(entry.is_ok()));
        let signs = going.filter_map(|entry| async move {
            let entry = entry.ok()?;
            match entry.operation {
                kv::Operation::Put => serde_json::from_slice(&entry.value).ok().map(Sign::Of),
                kv::Operation::Delete | kv::Operation::Purge => {
                    Some(Sign::Forgotten { key: entry.key })
                }
            }
        });
        Ok(signs.boxed())
    }

    /// All that live, by name.
    pub async fn list(&self) -> Result<Vec<WorkerStatus>, Error> {
        let failed = |error: String| Error::jetstream(WORKERS, error);
        let store = self.store().await?;
        let keys = store.keys().await.map_err(|error| failed(error.to_string()))?;
        let keys: Vec<String> =
            keys.try_collect().await.map_err(|error| failed(error.to_string()))?;
        let mut workers: Vec<WorkerStatus> = Vec::new();
        for key in keys {
            let entry = store.get(key).await.map_err(|error| failed(error.to_string()))?;
            // Gone since, or of a version that says it in another way.
            workers.extend(entry.and_then(|body| serde_json::from_slice(&body).ok()));
        }
        workers.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(workers)
    }
}

/// A name as a key can have it: what no key may have in it stands as its number.
pub(crate) fn key(name: &str) -> String {
    let mut key = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => key.push(char::from(byte)),
            other => key.push_str(&format!("={other:02x}")),
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_key_of_its_own() {
        assert_eq!(key("host-1:9100"), "host-1=3a9100");
        assert_ne!(key("a.b"), key("a=2eb"));
    }
}
