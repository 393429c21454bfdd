//! What is known of layers: in memory for those of late, in PostgreSQL for all.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lru::LruCache;
use mecapy_registry::Digest;
use mecapy_store::{PgPool, layers};
use tokio::task::JoinHandle;

use crate::layer::{ANALYSER_VERSION, LayerIndex};
use crate::{Error, metric_definitions as metrics};

/// The base layers in use and their dependency layers; a large one takes half a megabyte.
const IN_MEMORY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

/// Indexes by (layer digest, [`ANALYSER_VERSION`]). Cheap to clone.
#[derive(Clone)]
pub struct LayerCache(Arc<Inner>);

struct Inner {
    memory: Mutex<LruCache<Digest, Arc<LayerIndex>>>,
    /// `None`: what is known ends with the process.
    pool: Option<PgPool>,
    /// Layers that are being read now: images on one new base wait for it rather than each reading it.
    reading: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// A layer's index, which may be on its way to the store yet.
#[derive(Debug)]
pub struct Read {
    pub index: Arc<LayerIndex>,
    keeping: Option<JoinHandle<Result<(), Error>>>,
}

impl Read {
    /// Until it is in the store.
    pub async fn kept(self) -> Result<(), Error> {
        match self.keeping {
            Some(keeping) => keeping.await.map_err(|error| Error::Read(io::Error::other(error)))?,
            None => Ok(()),
        }
    }
}

impl LayerCache {
    pub fn new(pool: PgPool) -> Self {
        Self::over(Some(pool))
    }

    /// Without PostgreSQL behind it.
    pub fn in_memory() -> Self {
        Self::over(None)
    }

    fn over(pool: Option<PgPool>) -> Self {
        Self(Arc::new(Inner {
            memory: Mutex::new(LruCache::new(IN_MEMORY)),
            pool,
            reading: Mutex::default(),
        }))
    }

    /// Those of the layers that are known: at most one query.
    pub async fn get(&self, digests: &[Digest]) -> Result<HashMap<Digest, Arc<LayerIndex>>, Error> {
        let mut known = self.remembered(digests);
        let unknown: Vec<Digest> =
            digests.iter().filter(|digest| !known.contains_key(digest)).copied().collect();
        known.extend(self.stored(&unknown).await?);
        Ok(known)
    }

    /// Those of the layers that are in memory.
    pub fn remembered(&self, digests: &[Digest]) -> HashMap<Digest, Arc<LayerIndex>> {
        let mut memory = lock(&self.0.memory);
        let known: HashMap<_, _> = digests
            .iter()
            .filter_map(|digest| Some((*digest, Arc::clone(memory.get(digest)?))))
            .collect();
        metrics::layers("memory").increment(known.len() as u64);
        known
    }

    /// Those of the layers that PostgreSQL has, which are in memory from then on: at most one query.
    pub async fn stored(
        &self,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, Arc<LayerIndex>>, Error> {
        let mut known = HashMap::new();
        let Some(pool) = self.0.pool.as_ref().filter(|_| !digests.is_empty()) else {
            return Ok(known);
        };
        let texts: Vec<String> = digests.iter().map(ToString::to_string).collect();
        for (digest, contents) in layers::get(pool, &texts, ANALYSER_VERSION).await? {
            let Ok(digest) = digest.parse::<Digest>() else { continue };
            match serde_json::from_value::<LayerIndex>(contents) {
                Ok(index) => {
                    let index = Arc::new(index);
                    lock(&self.0.memory).put(digest, Arc::clone(&index));
                    known.insert(digest, index);
                    metrics::layers("store").increment(1);
                }
                Err(error) => {
                    tracing::warn!(%error, layer.digest = %digest, "a kept layer index is read anew")
                }
            }
        }
        Ok(known)
    }

    /// The layer's index, read with `read` unless another scan is reading it already or has just read it. What was
    /// read is kept beside what its caller does next.
    pub async fn get_or_read<F, Fut>(&self, digest: Digest, read: F) -> Result<Read, Error>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<LayerIndex, Error>>,
    {
        let turn = self.turn(digest).lock_owned().await;
        if let Some(index) = lock(&self.0.memory).get(&digest) {
            return Ok(Read { index: Arc::clone(index), keeping: None });
        }
        let index = Arc::new(read().await?);
        metrics::layers("read").increment(1);
        let (cache, kept) = (self.clone(), Arc::clone(&index));
        let keeping = tokio::spawn(async move {
            let kept = cache.keep(digest, kept).await;
            // Whoever waits for the layer finds it, or reads it anew.
            drop(turn);
            kept
        });
        Ok(Read { index, keeping: Some(keeping) })
    }

    /// In memory is only what is in the store: a new database of advisories is matched with that.
    async fn keep(&self, digest: Digest, index: Arc<LayerIndex>) -> Result<(), Error> {
        if let Some(pool) = &self.0.pool {
            let contents = serde_json::to_value(&*index)?;
            layers::put(pool, &digest.to_string(), ANALYSER_VERSION, &contents).await?;
        }
        lock(&self.0.memory).put(digest, index);
        Ok(())
    }

    fn turn(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut reading = lock(&self.0.reading);
        reading.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = reading.get(&digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        reading.insert(digest, Arc::downgrade(&turn));
        turn
    }
}

/// Nothing done under these locks can leave them half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_layer_that_many_ask_for_at_once_is_read_once() {
        let cache = LayerCache::in_memory();
        let reads = AtomicUsize::new(0);
        let digest = Digest::of(b"layer");
        let ask = || {
            cache.get_or_read(digest, || async {
                reads.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(LayerIndex::default())
            })
        };
        let all = futures::future::join_all((0..8).map(|_| ask())).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(reads.load(Ordering::SeqCst), 1);
        for read in all {
            read.unwrap().kept().await.unwrap();
        }
        assert_eq!(cache.get(&[digest, Digest::of(b"other")]).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_read_that_failed_is_tried_by_the_next_who_asks() {
        let cache = LayerCache::in_memory();
        let digest = Digest::of(b"layer");
        let failed =
            cache.get_or_read(digest, || async { Err(Error::Truncated { at: "a file" }) }).await;
        assert!(failed.is_err());
        assert!(cache.get_or_read(digest, || async { Ok(LayerIndex::default()) }).await.is_ok());
    }
}
