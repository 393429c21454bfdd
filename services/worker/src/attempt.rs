//! One attempt at a task, once all that it needs is at hand: claimed, run, kept, recorded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Utc;
use mecapy_bus::{HandlerError, Outcome};
use mecapy_engine::{Limits, OutputSink, RunOutcome};
use mecapy_proto::TaskId;
use mecapy_proto::v1::{CacheOutcome, TaskStatus, TaskTimings};
use mecapy_store::task_runs;
use mecapy_store::tasks::Task;
use tracing::{Instrument as _, Span};

use crate::background::OnItsWay;
use crate::ending::{self, Ending};
use crate::error::Problem;
use crate::execution::{Execution, Left, Ran, Start};
use crate::image_choice::Choice;
use crate::images::Held;
use crate::prepare::Prepared;
use crate::report::Report;
use crate::running::InHand;
use crate::slot::Used;
use crate::worker::{LOOK_EVERY, Worker, tell_the_end};
use crate::{metric_definitions as metrics, storage};

/// A used container's removal waits until the result is kept and short tasks have ended, but no longer: what the function
/// left running ends with it.
const REMOVE_WITHIN: Duration = Duration::from_secs(1);
/// A container that waits for the next task with these dependencies is started when this one's end is recorded, since
/// beside it both take longer; or after this, where it takes long.
const LEARN_AFTER: Duration = Duration::from_secs(1);

/// An attempt's container has ended, or could not be run.
pub(crate) struct Executed {
    choice: Choice,
    cache: CacheOutcome,
    /// What its preparation took.
    fetch: Duration,
    limits: Limits,
    ran: Result<Ran, Problem>,
    /// A container of this image is yet to wait for the next task.
    to_learn: Option<Arc<Held>>,
}

impl Worker {
    /// Claims a task while its function begins in a container that waits: the claim is a write to disk, and takes as
    /// long as a short function. A function has no network and no lasting disk, so where the claim does not come
    /// about, nothing has: the container goes, and what it wrote is kept nowhere and was shown to nobody. None: it did
    /// not.
    pub(crate) async fn claim_and_execute(
        &self,
        task: &Task,
        prepared: Prepared,
        in_hand: &InHand,
    ) -> Result<Option<(Task, Executed)>, HandlerError> {
        let attempt = task.attempt + 1;
        let (live, log) = self.logs.sink(&self.live, task.id(), attempt);
        let claim = async {
            let claimed = task_runs::claim(&self.pool, task, &self.name).await?;
            if claimed.is_some() {
                log.show();
            }
            Ok::<_, HandlerError>(claimed)
        };
        let execute = self.execute_with(task, attempt, prepared, in_hand, live);
        tokio::pin!(claim, execute);
        let claimed = tokio::select! {
            biased;
            claimed = &mut claim => claimed?,
            executed = &mut execute => return Ok(claim.await?.map(|claimed| (claimed, executed))),
        };
        match claimed {
            Some(claimed) => Ok(Some((claimed, execute.await))),
            None => Ok(None),
        }
    }

    /// Runs an attempt that is claimed.
    pub(crate) async fn execute(
        &self,
        task: &Task,
        prepared: Prepared,
        in_hand: &InHand,
    ) -> Executed {
        let (live, log) = self.logs.sink(&self.live, task.id(), task.attempt);
        log.show();
        self.execute_with(task, task.attempt, prepared, in_hand, live).await
    }

    async fn execute_with(
        &self,
        task: &Task,
        attempt: i32,
        prepared: Prepared,
        in_hand: &InHand,
        live: OutputSink,
    ) -> Executed {
        let Prepared { choice, start, cache, inputs, took: fetch } = prepared;
        Span::current().record("task.attempt", attempt).record("task.cache", cache.as_str_name());
        let limits = self.options.limits(task.timeout_ms.unsigned_abs());
        let execution = Execution {
            engine: &self.engine,
            images: &self.images,
            parked: &self.parked,
            pool: &self.pool,
            task,
            attempt,
            choice: &choice,
            inputs,
            limits: limits.clone(),
            worker: &self.name,
            runtime: self.options.runtime.clone(),
            max_uses: self.options.pool.max_uses,
            live,
            cancelled: &in_hand.cancelled,
        };
        let mut to_learn = match &start {
            Start::Plain(image) => Some(Arc::clone(image)),
            Start::Parked(..) => None,
        };
        let span = tracing::info_span!(
            "run",
            container.image.name = choice.repository.as_str(),
            oci.manifest.digest = %choice.digest,
        );
        let ran = {
            let mut run = std::pin::pin!(execution.run(start).instrument(span));
            match tokio::time::timeout(LEARN_AFTER, &mut run).await {
                Ok(ran) => ran,
                Err(_) => {
                    if let Some(image) = to_learn.take() {
                        self.learning(choice.clone(), image)();
                    }
                    run.await
                }
            }
        };
        drop(execution);
        Executed { choice, cache, fetch, limits, ran, to_learn }
    }

    /// Keeps what an attempt left, and says what is to be recorded of it.
    pub(crate) async fn finish(
        &self,
        task: &Task,
        executed: Executed,
        in_hand: InHand,
        on_its_way: OnItsWay,
    ) -> Result<Outcome, HandlerError> {
        let Executed { choice, cache, fetch, limits, ran, to_learn } = executed;
        let (outcome, left) = match ran {
            Ok(Ran::Ended(outcome, left)) => (*outcome, left),
            Ok(Ran::Overtaken) => return self.wait_out(task).await,
            Err(Problem::Refused(failure)) => {
                return Ok(self.refuse(task, TaskStatus::Failed, failure));
            }
            Err(Problem::Passing(error)) => return self.overtaken_or(task, error).await,
        };
        let ending = ending::of(&outcome, &limits);
        tell_the_end(ending.status);
        metrics::ran(ending.status, outcome.timings.run);
        let mut report = Report::of(task, &self.name, ending.status);
        report.exit_code = ending.exit_code;
        report.failure = ending.failure.clone();
        report.ran = Some((choice.digest, cache));
        report.timings = TaskTimings {
            // What was fetched was fetched before the claim.
            queued_ms: task.started_at.map_or(0, |started| {
                millis_between(task.created_at, started).saturating_sub(millis(fetch))
            }),
            fetch_ms: millis(fetch),
            start_ms: millis(outcome.timings.create + outcome.timings.start),
            run_ms: millis(outcome.timings.run),
            store_ms: 0,
        };
        let succeeded = ending.status == TaskStatus::Succeeded;
        // Of a later attempt, the wait holds the attempts before it.
        if task.attempt == 1 {
            let path = match &left {
                Left::Parked(used) => used.path,
                Left::Plain(_) => "plain",
            };
            let TaskTimings { queued_ms, fetch_ms, start_ms, .. } = report.timings;
            metrics::began(cache, path, Duration::from_millis(queued_ms + fetch_ms + start_ms));
        }
        let store = self.store(task, outcome, ending, report);
        let store = store.instrument(tracing::info_span!("store"));
        tokio::pin!(store);
        let (stored, left) = match tokio::time::timeout(REMOVE_WITHIN, &mut store).await {
            Ok(stored) => (stored, Some(left)),
            Err(_) => (tokio::join!(store, left.remove()).0, None),
        };
        let Some((recorded, result)) = stored? else {
            drop(left);
            return self.wait_out(task).await;
        };
        let (used, plain) = match left {
            Some(Left::Parked(mut used)) => {
                // What ended with 0 may have failed all the same, by its output.
                used.wanted_by = used.wanted_by.filter(|_| succeeded);
                (Some(used), None)
            }
            Some(Left::Plain(spent)) => (None, Some(spent)),
            None => (None, None),
        };
        let outcome = recorded.into_outcome(self.pool.clone());
        let learn = to_learn.map(|image| self.learning(choice, image));
        let afterwards = self.afterwards(task.id(), result, used, on_its_way);
        let outcome = outcome.then(move || {
            afterwards();
            if let Some(learn) = learn {
                learn();
            }
        });
        Ok(match plain {
            // A container of its own is part of its slot, which is free when that is gone.
            Some(spent) => outcome.and_rest(async move {
                spent.remove().await;
                drop(in_hand);
            }),
            None => outcome,
        })
    }

    /// Keeps what the run left. None: a newer attempt has the task.
    async fn store(
        &self,
        task: &Task,
        outcome: RunOutcome,
        ending: Ending,
        mut report: Report,
    ) -> Result<Option<(Report, Option<Bytes>)>, HandlerError> {
        let began = Instant::now();
        let (id, attempt) = (task.id(), task.attempt);
        let streams = (&outcome.stdout, &outcome.stderr);
        let keep = storage::keep(&self.objects, id, attempt, streams, ending.result.as_ref());
        // The commit asks again, and decides; but a message that is another attempt's now must neither be
        // acknowledged nor handed back, and here it can be held.
        let (kept, is_overtaken) = tokio::join!(keep, self.is_overtaken(task));
        // What was written for long may have been overtaken since that answer.
        if is_overtaken? || (began.elapsed() > LOOK_EVERY && self.is_overtaken(task).await?) {
            return Ok(None);
        }
        report.result_key = kept.map_err(HandlerError::transient)?;
        report.timings.store_ms = millis(began.elapsed());
        tracing::info!(
            task.id = %id,
            function.id = task.function_id,
            attempt,
            status = ending.status.as_str_name(),
            run_ms = report.timings.run_ms,
            "a task has ended"
        );
        Ok(Some((report, ending.result)))
    }

    /// What nobody waits for: the result in the bucket, another container in the used one's place, and that one's removal.
    fn afterwards(
        &self,
        id: TaskId,
        result: Option<Bytes>,
        used: Option<Box<Used>>,
        on_its_way: OnItsWay,
    ) -> impl FnOnce() + Send + use<> {
        let (tasks, results) = (self.afterwards.clone(), Arc::clone(&self.results));
        let (parked, background) = (self.parked.clone(), self.background.clone());
        move || {
            drop(on_its_way);
            let tidy = async move {
                parked.refill();
                match used.map(|used| (used.wanted_by, used)) {
                    Some((Some(by), used)) => parked.keep(*used, by).await,
                    Some((None, used)) => {
                        let _turn = background.turn(REMOVE_WITHIN).await;
                        used.remove().await;
                    }
                    None => {}
                }
            };
            tasks.spawn(async move {
                let offer = async {
                    if let Some(result) = result {
                        storage::offer(&results, id, result).await;
                    }
                };
                tokio::pin!(offer);
                // Who waits for the result gets it first.
                let offered = tokio::time::timeout(REMOVE_WITHIN, &mut offer).await;
                tidy.await;
                if offered.is_err() {
                    offer.await;
                }
            });
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The database's clock and ours may differ: never less than nothing.
fn millis_between(from: chrono::DateTime<Utc>, to: chrono::DateTime<Utc>) -> u64 {
    u64::try_from((to - from).num_milliseconds()).unwrap_or_default()
}
