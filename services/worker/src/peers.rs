//! The workers that live, as their signs of life tell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use mecapy_bus::topology::WORKER_SILENCE;
use mecapy_bus::{Sign, Workers};
use mecapy_proto::FunctionId;

use crate::affinity;

const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Cheap to clone; clones share what they know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(Arc<Mutex<HashMap<String, Peer>>>);

#[derive(Debug)]
struct Peer {
    name: String,
    seen_at: Instant,
}

impl Peers {
    /// Listens for as long as the process runs.
    pub(crate) async fn listen(self, workers: Workers) {
        loop {
            match workers.watch().await {
                Ok(signs) => {
                    let mut signs = std::pin::pin!(signs);
                    while let Some(sign) = signs.next().await {
                        self.note(sign, Instant::now());
                    }
                }
                Err(error) => tracing::debug!(%error, "the other workers are not seen"),
            }
            tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
        }
    }

    fn note(&self, sign: Sign, now: Instant) {
        let mut peers = self.peers();
        match sign {
            Sign::Of(status) if status.is_stopping || status.is_draining => {
                peers.remove(&status.key());
            }
            Sign::Of(status) => {
                peers.insert(status.key(), Peer { name: status.name, seen_at: now });
            }
            Sign::Forgotten { key } => {
                peers.remove(&key);
            }
        }
        peers.retain(|_, peer| now.duration_since(peer.seen_at) < WORKER_SILENCE);
    }

    /// The worker that a function's tasks go to first, when that isn't the one of this name.
    pub(crate) fn other_home(&self, function: FunctionId, own_name: &str) -> Option<String> {
        let (peers, now) = (self.peers(), Instant::now());
        let live = peers
            .values()
            .filter(|peer| now.duration_since(peer.seen_at) < WORKER_SILENCE)
            .map(|peer| peer.name.as_str());
        // This one lives, whether its sign has come or not.
        let home = affinity::home(function, live.chain([own_name]))?;
        (home != own_name).then(|| home.to_owned())
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<String, Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use mecapy_bus::WorkerStatus;

    use super::*;

    fn sign(name: &str, is_stopping: bool) -> Sign {
        Sign::Of(WorkerStatus { name: name.to_owned(), is_stopping, ..WorkerStatus::default() })
    }

    /// How many of a hundred functions are at home elsewhere.
    fn elsewhere(peers: &Peers) -> usize {
        (1..=100)
            .filter(|id| peers.other_home(FunctionId::new(*id).unwrap(), "own").is_some())
            .count()
    }

    #[test]
    fn only_those_count_that_live_and_go_on() {
        let (peers, now) = (Peers::default(), Instant::now());
        assert_eq!(elsewhere(&peers), 0);
        peers.note(sign("other:9100", false), now);
        assert!((20..80).contains(&elsewhere(&peers)));
        peers.note(sign("other:9100", true), now);
        assert_eq!(elsewhere(&peers), 0, "it takes no more tasks");
        let draining =
            WorkerStatus { name: "other:9100".to_owned(), is_draining: true, ..Default::default() };
        peers.note(sign("other:9100", false), now);
        peers.note(Sign::Of(draining), now);
        assert_eq!(elsewhere(&peers), 0, "an operator drains it");
        peers.note(sign("other:9100", false), now);
        assert!((20..80).contains(&elsewhere(&peers)), "it is taken back");
        let key = WorkerStatus { name: "other:9100".to_owned(), ..WorkerStatus::default() }.key();
        peers.note(Sign::Forgotten { key }, now);
        assert_eq!(elsewhere(&peers), 0, "it has ended");
        peers.note(sign("other:9100", false), now - WORKER_SILENCE);
        assert_eq!(elsewhere(&peers), 0, "it was not heard for long");
    }
}
