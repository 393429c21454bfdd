//! Which repository of a registry holds which blob, as far as this process has seen; and one turn at a time for
//! each blob, so that two images that share one don't send it twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;

use crate::Digest;

/// More than any run needs; then everything is learned anew, which costs calls and nothing else.
const MAX_KNOWN: usize = 20_000;
/// What was seen longer ago is looked at again. A registry refuses a manifest whose blobs are gone, and then all of it is
/// looked at; one that doesn't refuse is wrong for no longer than this.
pub(crate) const KNOWN_FOR: Duration = Duration::from_secs(60 * 60);

#[derive(Default)]
pub(crate) struct Holders {
    known: Mutex<HashMap<Digest, (Arc<str>, Instant)>>,
    turns: Mutex<HashMap<Digest, Arc<AsyncMutex<()>>>>,
}

/// While it lives, nobody else moves the blob.
pub(crate) struct Turn<'a> {
    holders: &'a Holders,
    digest: Digest,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Holders {
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<str>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(digest)
            .filter(|(_, seen_at)| seen_at.elapsed() < KNOWN_FOR)
            .map(|(repository, _)| Arc::clone(repository))
    }

    /// The newest holder is the likeliest to be there tomorrow.
    pub(crate) fn learn(&self, digest: Digest, repository: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(digest, (repository.into(), Instant::now()));
    }

    pub(crate) fn forget(&self, digests: impl IntoIterator<Item = Digest>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in digests {
            known.remove(&digest);
        }
    }

    pub(crate) async fn turn(&self, digest: Digest) -> Turn<'_> {
        let lock = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(digest).or_default())
        };
        Turn { holders: self, digest, guard: Some(lock.lock_owned().await) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard.take();
        let mut turns = self.holders.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else holds or awaits it: those who do have a clone of their own.
        if turns.get(&self.digest).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            turns.remove(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_blob_is_in_one_hand_at_a_time_and_nothing_is_left_of_a_turn() {
        let holders = Arc::new(Holders::default());
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let turn = holders.turn(one).await;
        drop(holders.turn(other).await);
        let waiting = tokio::spawn({
            let holders = Arc::clone(&holders);
            async move { drop(holders.turn(one).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(turn);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        assert!(holders.turns.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_learned_can_be_forgotten_and_gets_old() {
        let (holders, digest) = (Holders::default(), Digest::of(b"one"));
        holders.learn(digest, "a");
        holders.learn(digest, "b");
        assert_eq!(holders.get(&digest).as_deref(), Some("b"));
        holders.forget([digest]);
        assert_eq!(holders.get(&digest), None);
        holders.learn(digest, "c");
        tokio::time::advance(KNOWN_FOR).await;
        assert_eq!(holders.get(&digest), None);
    }
}
