//! The tasks that this process has in hand, and the word that one is to be cancelled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use mecapy_bus::Live;
use mecapy_proto::TaskId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metric_definitions as metrics;

const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A handle; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tasks: Mutex<HashMap<TaskId, CancellationToken>>,
    left: Notify,
}

/// One task in hand, until this is dropped.
#[derive(Debug)]
pub(crate) struct InHand {
    running: Running,
    id: TaskId,
    pub cancelled: CancellationToken,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.running.tasks().remove(&self.id);
        self.running.0.left.notify_waiters();
        metrics::slots_in_use(-1.0);
    }
}

impl Running {
    /// Takes a task in hand; waits while another copy of its message is.
    pub(crate) async fn take(&self, id: TaskId) -> InHand {
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            // Enabled before the look, so that a leaving between the two is not missed.
            left.as_mut().enable();
            if let Some(in_hand) = self.try_take(id) {
                return in_hand;
            }
            left.await;
        }
    }

    fn try_take(&self, id: TaskId) -> Option<InHand> {
        let mut tasks = self.tasks();
        if tasks.contains_key(&id) {
            return None;
        }
        let cancelled = CancellationToken::new();
        tasks.insert(id, cancelled.clone());
        drop(tasks);
        metrics::slots_in_use(1.0);
        Some(InHand { running: self.clone(), id, cancelled })
    }

    pub(crate) fn contains(&self, id: TaskId) -> bool {
        self.tasks().contains_key(&id)
    }

    pub(crate) fn count(&self) -> usize {
        self.tasks().len()
    }

    pub(crate) fn cancel(&self, id: TaskId) {
        if let Some(cancelled) = self.tasks().get(&id) {
            cancelled.cancel();
        }
    }

    /// Cancels what is to be cancelled, as the word comes. The row has it too, for who missed the word:
    /// a claim sees it.
    pub(crate) async fn listen(self, live: Live) {
        loop {
            match live.cancelled_tasks().await {
                Ok(ids) => {
                    tokio::pin!(ids);
                    while let Some(id) = ids.next().await {
                        self.cancel(id);
                    }
                }
                Err(error) => tracing::warn!(%error, "cancellations are not heard"),
            }
            tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
        }
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<TaskId, CancellationToken>> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_is_in_one_hand_at_a_time() {
        let running = Running::default();
        let id = TaskId::new();
        let first = running.take(id).await;
        assert!(running.try_take(id).is_none() && running.contains(id));
        let second = tokio::spawn({
            let running = running.clone();
            async move { running.take(id).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        let second = second.await.unwrap();
        running.cancel(id);
        assert!(second.cancelled.is_cancelled());
        drop(second);
        assert!(!running.contains(id));
    }
}
