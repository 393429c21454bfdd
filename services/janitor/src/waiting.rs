//! Images of tasks that wait in their queue and have no row yet: a producer's own, which the gateway never saw.

use std::collections::HashSet;

use mecapy_bus::waiting::Reading;
use mecapy_bus::{Bus, topology};
use mecapy_proto::v1::TaskDispatch;
use mecapy_registry::Digest;
use mecapy_store::{PgPool, cleanup_usage};
use tokio::sync::Mutex;

use crate::Error;
use crate::plan::{Need, Usage};
use crate::records::{Named, named};

/// What the queue held when it was last looked at, and what came since. What was in it once counts to the end of the
/// run: its task may run by then.
pub(crate) struct WaitingTasks<'a> {
    bus: &'a Bus,
    pool: &'a PgPool,
    seen: Mutex<Seen>,
}

struct Seen {
    reading: Reading,
    digests: HashSet<Digest>,
    /// (repository, tag)
    tags: HashSet<(String, String)>,
}

impl<'a> WaitingTasks<'a> {
    pub fn new(bus: &'a Bus, pool: &'a PgPool) -> Self {
        let seen = Seen {
            reading: Reading::of(topology::WORKER),
            digests: HashSet::new(),
            tags: HashSet::new(),
        };
        Self { bus, pool, seen: Mutex::new(seen) }
    }

    /// Adds what they need to the plan. Asked before the rows: a task that a worker takes in between is found there.
    pub async fn add_to(&self, usage: &mut Usage) -> Result<(), Error> {
        let seen = self.look().await?;
        usage.digests.extend(seen.digests.iter().map(|digest| (*digest, Need::Task)));
        let tags = seen.tags.iter().map(|(repository, tag)| (repository.clone(), tag.clone()));
        usage.tags.extend(tags.map(|(repository, tag)| (repository, tag, Need::Task)));
        Ok(())
    }

    /// Whether one of them needs this image, by now.
    pub async fn need(
        &self,
        repository: &str,
        tags: &[String],
        digest: Digest,
    ) -> Result<bool, Error> {
        let seen = self.look().await?;
        let is_named = |tag: &String| seen.tags.contains(&(repository.to_owned(), tag.clone()));
        Ok(seen.digests.contains(&digest) || tags.iter().any(is_named))
    }

    async fn look(&self) -> Result<tokio::sync::MutexGuard<'_, Seen>, Error> {
        let mut seen = self.seen.lock().await;
        let take = |event: TaskDispatch| (event.function_id, event.docker_image);
        // Thousands of tasks name a few images.
        let new: HashSet<(i64, String)> =
            seen.reading.on(self.bus, take).await?.into_iter().collect();
        if !new.is_empty() {
            let new: Vec<(i64, String)> = new.into_iter().collect();
            for asked in cleanup_usage::asked_by_messages(self.pool, &new).await? {
                match named(&asked) {
                    Some(Named::Digest(digest)) => {
                        seen.digests.insert(digest);
                    }
                    Some(Named::Tag(repository, tag)) => {
                        seen.tags.insert((repository, tag));
                    }
                    None => {}
                }
            }
        }
        Ok(seen)
    }
}
