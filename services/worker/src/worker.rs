//! The handler of `task.dispatch`: from the message to the task's end.
//!
//! Everything that may fail for a while (registries, S3, the engine) is done before an attempt is taken, so that
//! a server that is away costs deliveries and no attempts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Results, topology};
use mecapy_engine::{Engine, RunOutcome};
use mecapy_objects::Objects;
use mecapy_proto::v1::{CacheOutcome, Failure, TaskDispatch, TaskStatus, TaskTimings};
use mecapy_proto::{ErrorCode, FunctionId, TaskId, failure};
use mecapy_store::tasks::Task;
use mecapy_store::{PgPool, TaskState, functions, tasks};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::codes::Codes;
use crate::dispatch::Dispatch;
use crate::ending::{self, Ending};
use crate::error::Problem;
use crate::execution::{Execution, Ran, Start};
use crate::image_choice::{self, Choice};
use crate::images::{Held, Images};
use crate::patience::patiently;
use crate::pool::Pool;
use crate::pull::Sources;
use crate::report::Report;
use crate::running::{InHand, Running};
use crate::{Error, Options, inputs, metric_definitions as metrics, storage};

/// How often a task that somebody else runs is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A task that runs this much longer than it may is nobody's any more.
const OVERDUE_AFTER: TimeDelta = TimeDelta::seconds(60);

pub(crate) struct Worker {
    pub name: String,
    pub options: Options,
    pub pool: PgPool,
    pub objects: Objects,
    pub results: Arc<Results>,
    pub engine: Engine,
    pub sources: Sources,
    pub images: Images,
    pub codes: Codes,
    pub parked: Pool,
    pub running: Running,
    /// What goes on after a task's end is recorded.
    pub afterwards: TaskTracker,
}

/// All that a run needs, at hand.
struct Prepared {
    choice: Choice,
    start: Start,
    cache: CacheOutcome,
    inputs: Bytes,
    took: Duration,
}

impl Handler<TaskDispatch> for Worker {
    async fn handle(
        &self,
        event: TaskDispatch,
        delivery: &Delivery,
    ) -> Result<Outcome, HandlerError> {
        let dispatch = Dispatch::read(event)?;
        let span = tracing::info_span!(
            "task",
            otel.name = "run task",
            task.id = %dispatch.task.id,
            function.id = %dispatch.task.function,
            attempt = tracing::field::Empty,
            cache = tracing::field::Empty,
            status = tracing::field::Empty,
        );
        let attend = async {
            match self.attend(&dispatch, delivery).await {
                Err(HandlerError::Transient(error))
                    if delivery.count >= topology::MAX_DELIVERIES =>
                {
                    self.give_up(dispatch.task.id, error).await
                }
                other => other,
            }
        };
        attend.instrument(span).await
    }
}

impl Worker {
    async fn attend(
        &self,
        dispatch: &Dispatch,
        delivery: &Delivery,
    ) -> Result<Outcome, HandlerError> {
        let id = dispatch.task.id;
        let in_hand = self.running.take(id).await;
        let first_look = self.row(dispatch).await?;
        let mut prepared: Option<Prepared> = None;
        loop {
            // Waiting and preparing take time, so the row is looked at again after each.
            let task = self.look(id).await?;
            if task.state.is_final() {
                return Ok(Outcome::nothing());
            }
            // A redelivery says that its worker is gone. A first delivery of a task that runs is another copy of the
            // message; a raised attempt, another worker's claim.
            let is_anothers = task.state == TaskState::Running
                && (delivery.count == 1 || task.attempt > first_look.attempt)
                && !self.is_overdue(&task);
            if is_anothers {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            if let Some((status, failure)) = self.reason_not_to_run(&task, &in_hand) {
                return Ok(self.refuse(&task, status, failure));
            }
            if prepared.is_none() {
                let preparing =
                    self.prepare(dispatch, &task).instrument(tracing::info_span!("fetch"));
                tokio::select! {
                    done = preparing => match done {
                        Ok(done) => prepared = Some(done),
                        Err(Problem::Refused(failure)) => return Ok(self.refuse(&task, TaskStatus::Failed, failure)),
                        Err(Problem::Passing(error)) => return Err(HandlerError::transient(error)),
                    },
                    () = in_hand.cancelled.cancelled() => {}
                }
                continue;
            }
            let Some(task) = tasks::claim(&self.pool, id, &self.name).await? else { continue };
            if let Some(prepared) = prepared.take() {
                return self.run(&task, prepared, &in_hand).await;
            }
        }
    }

    /// The task's row. A producer may have published without the gateway: then it is made here.
    async fn row(&self, dispatch: &Dispatch) -> Result<Task, HandlerError> {
        let new = &dispatch.task;
        if let Some(task) = tasks::get(&self.pool, new.id).await? {
            return Ok(task);
        }
        if functions::get(&self.pool, new.function).await?.is_none() {
            return Err(HandlerError::permanent(format!("unknown function {}", new.function)));
        }
        let mut conn = self.pool.acquire().await.map_err(mecapy_store::Error::from)?;
        tasks::create(&mut conn, new).await?;
        drop(conn);
        self.look(new.id).await
    }

    async fn look(&self, id: TaskId) -> Result<Task, HandlerError> {
        tasks::get(&self.pool, id)
            .await?
            .ok_or_else(|| HandlerError::transient(format!("the row of task {id} is not there")))
    }

    fn is_overdue(&self, task: &Task) -> bool {
        let limit = self.options.limits(task.timeout_ms.unsigned_abs()).timeout;
        let limit = TimeDelta::from_std(limit).unwrap_or(TimeDelta::MAX);
        task.started_at.is_none_or(|started| Utc::now() - started > limit + OVERDUE_AFTER)
    }

    fn reason_not_to_run(&self, task: &Task, in_hand: &InHand) -> Option<(TaskStatus, Failure)> {
        if task.cancel_requested || in_hand.cancelled.is_cancelled() {
            let failure = failure(ErrorCode::TaskCancelled, "cancelled before it started");
            return Some((TaskStatus::Cancelled, failure));
        }
        if task.attempt.unsigned_abs() >= self.options.max_attempts {
            let message = format!(
                "{} attempts were begun and none came to an end: its workers died",
                task.attempt
            );
            return Some((TaskStatus::Lost, failure(ErrorCode::TaskLost, message)));
        }
        let deadline = task.deadline.filter(|deadline| *deadline < Utc::now())?;
        let message =
            format!("its deadline, {}, passed before it could start", deadline.to_rfc3339());
        Some((TaskStatus::Failed, failure(ErrorCode::DeadlineExceeded, message)))
    }

    async fn prepare(&self, dispatch: &Dispatch, task: &Task) -> Result<Prepared, Problem> {
        let began = Instant::now();
        let function = FunctionId::new(task.function_id)
            .map_err(|error| Problem::refused(ErrorCode::Internal, error.to_string()))?;
        let inputs = inputs::read(
            &self.objects,
            dispatch.task.id,
            dispatch.inputs.as_ref(),
            task.inputs_s3_key.as_deref(),
        );
        let image = async {
            let choice =
                image_choice::choose(&self.pool, &self.sources, function, &task.image).await?;
            if let Some(start) = self.parked_start(&choice).await {
                return Ok((choice, start, CacheOutcome::Hit));
            }
            let (image, cache) = self.images.take(&choice.repository, choice.digest).await?;
            Ok((choice, Start::Plain(image), cache))
        };
        let (inputs, (choice, start, cache)) = futures::try_join!(inputs, image)?;
        metrics::image_asked(cache);
        Ok(Prepared { choice, start, cache, inputs, took: began.elapsed() })
    }

    /// A container that waits with this image's dependencies. Whether the image itself is here does not matter.
    async fn parked_start(&self, choice: &Choice) -> Option<Start> {
        if !self.parked.has_any() {
            return None;
        }
        let code = self.codes.get(&choice.repository, choice.digest).await?;
        let slot = self.parked.take(&code).await?;
        Some(Start::Parked(Box::new(slot), code))
    }

    /// So that the next task with these dependencies finds a container that waits.
    fn learn(&self, choice: &Choice, image: Arc<Held>) {
        if !self.parked.is_on() {
            return;
        }
        let (codes, parked, choice) = (self.codes.clone(), self.parked.clone(), choice.clone());
        self.afterwards.spawn(async move {
            if let Some(code) = codes.get(&choice.repository, choice.digest).await {
                parked.learn(&code, image);
            }
        });
    }

    async fn run(
        &self,
        task: &Task,
        prepared: Prepared,
        in_hand: &InHand,
    ) -> Result<Outcome, HandlerError> {
        let Prepared { choice, start, cache, inputs, took: fetch } = prepared;
        let span = Span::current();
        span.record("attempt", task.attempt).record("cache", cache.as_str_name());
        let limits = self.options.limits(task.timeout_ms.unsigned_abs());
        let execution = Execution {
            engine: &self.engine,
            images: &self.images,
            parked: &self.parked,
            pool: &self.pool,
            task,
            choice: &choice,
            inputs,
            limits: limits.clone(),
            worker: &self.name,
            runtime: self.options.runtime.clone(),
            cancelled: &in_hand.cancelled,
        };
        if let Start::Plain(image) = &start {
            self.learn(&choice, Arc::clone(image));
        }
        let outcome = match execution.run(start).instrument(tracing::info_span!("run")).await {
            Ok(Ran::Ended(outcome)) => *outcome,
            Ok(Ran::Overtaken) => return self.wait_out(task).await,
            Err(Problem::Refused(failure)) => {
                return Ok(self.refuse(task, TaskStatus::Failed, failure));
            }
            Err(Problem::Passing(error)) => return self.overtaken_or(task, error).await,
        };
        let ending = ending::of(&outcome, &limits);
        span.record("status", ending.status.as_str_name());
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
        self.store(task, outcome, ending, report).instrument(tracing::info_span!("store")).await
    }

    async fn store(
        &self,
        task: &Task,
        outcome: RunOutcome,
        ending: Ending,
        mut report: Report,
    ) -> Result<Outcome, HandlerError> {
        let began = Instant::now();
        let (id, attempt) = (task.id(), task.attempt);
        let streams = (&outcome.stdout, &outcome.stderr);
        report.result_key =
            storage::keep(&self.objects, id, attempt, streams, ending.result.as_ref())
                .await
                .map_err(HandlerError::transient)?;
        // The commit asks again, and decides; but a message that is another attempt's now must neither be
        // acknowledged nor handed back, and here it can be held.
        if self.is_overtaken(task).await? {
            return self.wait_out(task).await;
        }
        report.timings.store_ms = millis(began.elapsed());
        if let Some(result) = ending.result {
            let (results, pool) = (Arc::clone(&self.results), self.pool.clone());
            self.afterwards.spawn(storage::offer(results, pool, id, attempt, result));
        }
        tracing::info!(
            task.id = %id,
            function.id = task.function_id,
            attempt,
            status = ending.status.as_str_name(),
            run_ms = report.timings.run_ms,
            "a task has ended"
        );
        Ok(report.into_outcome(self.pool.clone()))
    }

    async fn is_overtaken(&self, task: &Task) -> Result<bool, HandlerError> {
        let now = patiently("reading a task", || tasks::get(&self.pool, task.id())).await?;
        Ok(now.is_none_or(|now| now.state.is_final() || now.attempt != task.attempt))
    }

    async fn overtaken_or(&self, task: &Task, error: Error) -> Result<Outcome, HandlerError> {
        if self.is_overtaken(task).await? {
            self.wait_out(task).await
        } else {
            Err(HandlerError::transient(error))
        }
    }

    /// A newer attempt has the task. Its message is the one we hold: an ack or a hand-back of ours would end its
    /// delivery or start yet another attempt. So this waits, and keeps quiet.
    async fn wait_out(&self, task: &Task) -> Result<Outcome, HandlerError> {
        tracing::warn!(task.id = %task.id(), attempt = task.attempt, "a newer attempt has this task; nothing of this one is kept");
        loop {
            let now = self.look(task.id()).await?;
            if now.state.is_final() {
                return Ok(Outcome::nothing());
            }
            if self.is_overdue(&now) {
                return Err(HandlerError::transient(
                    "the attempt that overtook this one does not end",
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn refuse(&self, task: &Task, status: TaskStatus, failure: Failure) -> Outcome {
        Span::current().record("status", status.as_str_name());
        tracing::info!(
            task.id = %task.id(),
            function.id = task.function_id,
            status = status.as_str_name(),
            code = failure.code,
            reason = failure.message,
            "a task was not run"
        );
        let mut report = Report::of(task, &self.name, status);
        report.failure = Some(failure);
        report.into_outcome(self.pool.clone())
    }

    /// The last delivery failed too. A task ends one way or another: it is not left open beside a dead letter.
    async fn give_up(
        &self,
        id: TaskId,
        error: Box<dyn std::error::Error + Send + Sync>,
    ) -> Result<Outcome, HandlerError> {
        let shown = mecapy_service::chain(error.as_ref());
        let Ok(Some(task)) = tasks::get(&self.pool, id).await else {
            return Err(HandlerError::Transient(error));
        };
        if task.state.is_final() {
            return Ok(Outcome::nothing());
        }
        tracing::error!(task.id = %id, error = shown, "a task is given up");
        let message = format!(
            "it could not be run in {} deliveries; operators were alerted",
            topology::MAX_DELIVERIES
        );
        Ok(self.refuse(&task, TaskStatus::Lost, failure(ErrorCode::TaskLost, message)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The database's clock and ours may differ: never less than nothing.
fn millis_between(from: chrono::DateTime<Utc>, to: chrono::DateTime<Utc>) -> u64 {
    u64::try_from((to - from).num_milliseconds()).unwrap_or_default()
}
