//! The steps of what is handled now. Each is a span of its trace, and is told to whoever collects the steps of a whole:
//! so what a trace viewer shows and what is kept for the waterfall is one thing.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tracing::Instrument as _;

/// More than any handler has. What comes after them is not told.
const MAX_STEPS: usize = 32;

tokio::task_local! {
    static COLLECTED: Steps;
}

/// A step that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub name: &'static str,
    pub started_at: DateTime<Utc>,
    pub took: Duration,
    /// It failed, or was cut off.
    pub failed: bool,
}

/// Collects steps, in the order in which they end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Steps(Arc<Mutex<Vec<Step>>>);

impl Steps {
    /// Runs `work`, and collects the steps in it. What it spawns is not in it.
    pub fn collect<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        COLLECTED.scope(self.clone(), work)
    }

    /// Those that have ended so far.
    pub fn take(&self) -> Vec<Step> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, step: Step) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() < MAX_STEPS {
            steps.push(step);
        }
    }
}

/// Runs a step. Steps within steps, and steps at the same time, are fine.
///
/// The work is on the heap: a future that is handed on by value is in its caller's twice, and steps within steps would
/// fill the stack.
pub fn step<T, E>(
    name: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    run(name, Box::pin(work))
}

async fn run<T, E>(
    name: &'static str,
    work: Pin<Box<impl Future<Output = Result<T, E>>>>,
) -> Result<T, E> {
    let span =
        tracing::info_span!("step", otel.name = name, otel.status_code = tracing::field::Empty);
    let mut running = Running { name, started_at: Utc::now(), began: Instant::now(), failed: true };
    let done = work.instrument(span.clone()).await;
    running.failed = done.is_err();
    if running.failed {
        span.record("otel.status_code", "ERROR");
    }
    done
}

/// Told also when the step is cut off.
struct Running {
    name: &'static str,
    started_at: DateTime<Utc>,
    began: Instant,
    failed: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error says that nobody collects.
        let _ = COLLECTED.try_with(|steps| {
            steps.add(Step {
                name: self.name,
                started_at: self.started_at,
                took: self.began.elapsed(),
                failed: self.failed,
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ok() -> Result<(), ()> {
        Ok(())
    }

    fn told(steps: &Steps) -> Vec<(&'static str, bool)> {
        steps.take().into_iter().map(|step| (step.name, step.failed)).collect()
    }

    #[tokio::test]
    async fn steps_are_told_as_they_end() {
        let steps = Steps::default();
        let work = async {
            let _ = step("whole", async {
                step("part", ok()).await?;
                step("other", async { Err::<(), ()>(()) }).await
            })
            .await;
        };
        steps.collect(work).await;
        assert_eq!(told(&steps), [("part", false), ("other", true), ("whole", true)]);
        assert_eq!(told(&steps), []);
    }

    #[tokio::test]
    async fn a_step_that_is_cut_off_is_told_as_failed() {
        let steps = Steps::default();
        let work = async {
            let endless = step("endless", std::future::pending::<Result<(), ()>>());
            tokio::select! {
                biased;
                _ = endless => {}
                () = std::future::ready(()) => {}
            }
        };
        steps.collect(work).await;
        assert_eq!(told(&steps), [("endless", true)]);
    }

    #[tokio::test]
    async fn nobody_has_to_collect_and_too_many_are_not_kept() {
        assert_eq!(step("alone", ok()).await, Ok(()));
        let steps = Steps::default();
        steps
            .collect(async {
                for _ in 0..2 * MAX_STEPS {
                    let _ = step("one of many", ok()).await;
                }
            })
            .await;
        assert_eq!(steps.take().len(), MAX_STEPS);
    }
}
