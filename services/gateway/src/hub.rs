//! Wakes those who wait for a build or a task: one subscription for all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use mecapy_bus::Live;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::metric_definitions as metrics;

const SUBSCRIBE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    waiting: Arc<Mutex<HashMap<Uuid, watch::Sender<()>>>>,
    /// Anything at all.
    any: watch::Sender<()>,
}

/// One who waits. Dropping it is the end of the waiting.
#[derive(Debug)]
pub(crate) struct Wakeup {
    hub: Hub,
    id: Uuid,
    receiver: watch::Receiver<()>,
}

impl Hub {
    /// Follows the events as they pass by, until `shutdown`.
    pub(crate) fn start(live: Live, shutdown: CancellationToken) -> Self {
        let hub = Self::default();
        let follower = hub.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = follower.follow(live) => {}
            }
        });
        hub
    }

    async fn follow(&self, live: Live) {
        loop {
            match live.events().await {
                Ok(events) => {
                    let mut events = std::pin::pin!(events);
                    while let Some((_, entity)) = events.next().await {
                        if let Ok(id) = entity.parse() {
                            self.wake(id);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no wake-ups by events; waiting calls look by themselves")
                }
            }
            tokio::time::sleep(SUBSCRIBE_AGAIN_AFTER).await;
        }
    }

    /// From now on, wake-ups for `id` are not missed.
    pub(crate) fn subscribe(&self, id: Uuid) -> Wakeup {
        let receiver = self.lock().entry(id).or_insert_with(|| watch::Sender::new(())).subscribe();
        metrics::waiters().increment(1.0);
        Wakeup { hub: self.clone(), id, receiver }
    }

    /// Who looks at all there is. Changes that come close together are one.
    pub(crate) fn any(&self) -> watch::Receiver<()> {
        self.any.subscribe()
    }

    pub(crate) fn wake(&self, id: Uuid) {
        self.any.send_replace(());
        if let Some(sender) = self.lock().get(&id) {
            sender.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wakeup {
    /// Returns at once if a wake-up came since the last call.
    pub(crate) async fn woken(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The sender lives as long as its receivers; without it there is nothing to wait for.
            std::future::pending().await
        }
    }
}

impl Drop for Wakeup {
    fn drop(&mut self) {
        let mut map = self.hub.lock();
        // This one is still counted.
        if map.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1) {
            map.remove(&self.id);
        }
        drop(map);
        metrics::waiters().decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_wake_up_reaches_every_waiter_of_its_id_and_no_other() {
        let hub = Hub::default();
        let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
        let (mut first, mut second, mut third) =
            (hub.subscribe(one), hub.subscribe(one), hub.subscribe(other));
        hub.wake(one);
        first.woken().await;
        second.woken().await;
        assert_eq!(third.woken().now_or_never(), None);
        assert_eq!(first.woken().now_or_never(), None, "a wake-up counts once");
    }

    #[tokio::test]
    async fn who_looks_at_everything_is_woken_by_any_id() {
        let hub = Hub::default();
        let mut any = hub.any();
        assert!(!any.has_changed().unwrap());
        hub.wake(Uuid::now_v7());
        any.changed().await.unwrap();
        assert!(!any.has_changed().unwrap());
    }

    #[tokio::test]
    async fn a_wake_up_between_two_looks_is_not_missed() {
        let hub = Hub::default();
        let id = Uuid::now_v7();
        let mut wakeup = hub.subscribe(id);
        hub.wake(id);
        hub.wake(id);
        wakeup.woken().await;
    }

    #[test]
    fn nothing_is_kept_for_an_id_that_nobody_waits_for() {
        let hub = Hub::default();
        let id = Uuid::now_v7();
        let (first, second) = (hub.subscribe(id), hub.subscribe(id));
        drop(first);
        assert_eq!(hub.lock().len(), 1);
        drop(second);
        assert!(hub.lock().is_empty());
        hub.wake(id);
    }
}
