//! Work that no task waits for: a used container's removal, another in its place, an image that is put out.
//!
//! Each of them takes the engine and the machine more than a short task, which takes several times as long beside two
//! of them on two cores. So it is done one thing at a time, and begins when no task is on its way. It is not put off
//! for longer than its patience: a worker that always has tasks does it too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A task that takes longer loses little by work beside it.
const SHORT: Duration = Duration::from_millis(300);

/// A handle; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Background(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tasks: Mutex<Tasks>,
    left: Notify,
    turn: Arc<Semaphore>,
}

/// When each task that is on its way came.
#[derive(Debug, Default)]
struct Tasks {
    came: HashMap<u64, Instant>,
    next: u64,
}

/// A task, from its message to its end's, until this is dropped.
#[derive(Debug)]
pub(crate) struct OnItsWay {
    background: Background,
    number: u64,
}

/// Nothing else of this kind is done as long as this is held.
#[derive(Debug)]
pub(crate) struct Turn(
    #[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>,
);

impl Default for Background {
    fn default() -> Self {
        let (tasks, left) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { tasks, left, turn: Arc::new(Semaphore::new(1)) }))
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.background.tasks().came.remove(&self.number);
        self.background.0.left.notify_waiters();
    }
}

impl Background {
    pub(crate) fn task_comes(&self) -> OnItsWay {
        let mut tasks = self.tasks();
        let number = tasks.next;
        tasks.next += 1;
        tasks.came.insert(number, Instant::now());
        OnItsWay { background: self.clone(), number }
    }

    /// Waits for the turn of one piece of work: after those that asked before, and then for as long as short tasks are
    /// on their way, within the patience.
    pub(crate) async fn turn(&self, patience: Duration) -> Turn {
        // It is never closed.
        let turn = Arc::clone(&self.0.turn).acquire_owned().await.ok();
        let until = Instant::now() + patience;
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            // Enabled before the look, so that a leaving between the two is not missed.
            left.as_mut().enable();
            let now = Instant::now();
            let Some(quiet_at) = self.quiet_at().filter(|at| *at > now && now < until) else {
                return Turn(turn);
            };
            tokio::select! {
                () = left => {}
                () = tokio::time::sleep_until(quiet_at.min(until)) => {}
            }
        }
    }

    /// When those that are on their way now are short tasks no more.
    fn quiet_at(&self) -> Option<Instant> {
        self.tasks().came.values().max().map(|came| *came + SHORT)
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn work_waits_for_short_tasks_and_is_done_one_thing_at_a_time() {
        let background = Background::default();
        let first = background.turn(PATIENCE).now_or_never();
        assert!(first.is_some(), "nothing is on its way");
        assert!(background.turn(PATIENCE).now_or_never().is_none(), "the other is not done");
        drop(first);

        let task = background.task_comes();
        let mut turn = Box::pin(background.turn(PATIENCE));
        assert!(turn.as_mut().now_or_never().is_none());
        drop(task);
        assert!(turn.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn work_waits_neither_for_long_tasks_nor_for_ever() {
        let background = Background::default();
        let began = Instant::now();
        let long = background.task_comes();
        drop(background.turn(PATIENCE).await);
        assert_eq!(began.elapsed().as_millis(), SHORT.as_millis());
        drop(background.turn(PATIENCE).await);
        assert_eq!(began.elapsed().as_millis(), SHORT.as_millis(), "it is known to be long");
        drop(long);

        // One short task after another.
        let tasks = background.clone();
        let busy = tokio::spawn(async move {
            loop {
                let before = tasks.task_comes();
                tokio::time::sleep(SHORT / 3).await;
                let _after = tasks.task_comes();
                drop(before);
                tokio::time::sleep(SHORT / 3).await;
            }
        });
        tokio::task::yield_now().await;
        let began = Instant::now();
        drop(background.turn(PATIENCE).await);
        assert_eq!(began.elapsed().as_millis(), PATIENCE.as_millis());
        busy.abort();
    }
}
