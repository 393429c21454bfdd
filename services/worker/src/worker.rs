//! The handler of `task.dispatch`: from the message to the task's end.
//!
//! Everything that may fail for a while (registries, S3, the engine) is done before an attempt is taken, so that
//! a server that is away costs deliveries and no attempts.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use mecapy_bus::{Delivery, Handler, HandlerError, Live, Outcome, Results, topology};
use mecapy_engine::Engine;
use mecapy_objects::Objects;
use mecapy_proto::v1::{Failure, TaskDispatch, TaskStatus};
use mecapy_proto::{ErrorCode, TaskId, failure};
use mecapy_store::task_runs::{self, Known, KnownFunction};
use mecapy_store::tasks::Task;
use mecapy_store::{PgPool, TaskState, tasks};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::background::Background;
use crate::codes::Codes;
use crate::dispatch::Dispatch;
use crate::error::Problem;
use crate::image_choice;
use crate::images::Images;
use crate::live_log::LiveLogs;
use crate::patience::patiently;
use crate::peers::Peers;
use crate::pool::Pool;
use crate::prepare::Prepared;
use crate::report::Report;
use crate::running::{InHand, Running};
use crate::sources::Sources;
use crate::{Error, Options, metric_definitions as metrics};

/// How often a task that somebody else runs is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
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
    pub peers: Peers,
    pub live: Live,
    pub logs: LiveLogs,
    pub background: Background,
    /// What goes on after a task's end is recorded.
    pub afterwards: TaskTracker,
}

impl Handler<TaskDispatch> for Worker {
    /// The task's row tells.
    const KNOWS_DUPLICATES: bool = true;

    async fn handle(
        &self,
        event: TaskDispatch,
        delivery: &Delivery,
    ) -> Result<Outcome, HandlerError> {
        let dispatch = Dispatch::read(event)?;
        let span = tracing::info_span!(
            "task",
            otel.name = "run task",
            otel.status_code = tracing::field::Empty,
            task.id = %dispatch.task.id,
            function.id = %dispatch.task.function,
            task.attempt = tracing::field::Empty,
            task.cache = tracing::field::Empty,
            task.status = tracing::field::Empty,
            error.type = tracing::field::Empty,
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
        let on_its_way = self.background.task_comes();
        let (mut task, mut function) = self.know(dispatch).await?;
        if self.pass_on(&task, function.as_ref(), delivery).await {
            return Ok(Outcome::passed_on());
        }
        let first_attempt = task.attempt;
        let mut prepared: Option<Prepared> = None;
        loop {
            if task.state.is_final() {
                return Ok(Outcome::nothing());
            }
            // A redelivery says that its worker is gone. A first delivery of a task that runs is another copy of the
            // message; a raised attempt, another worker's claim.
            let is_anothers = task.state == TaskState::Running
                && (delivery.count == 1 || task.attempt > first_attempt)
                && !self.is_overdue(&task);
            if is_anothers {
                tokio::time::sleep(LOOK_EVERY).await;
                (task, function) = self.know(dispatch).await?;
                continue;
            }
            if let Some((status, failure)) = self.reason_not_to_run(&task, &in_hand) {
                return Ok(self.refuse(&task, status, failure));
            }
            let Some(ready) = prepared.take() else {
                let preparing = self
                    .prepare(dispatch, &task, function.as_ref())
                    .instrument(tracing::info_span!("fetch"));
                tokio::select! {
                    done = preparing => match done {
                        Ok(done) => prepared = Some(done),
                        Err(Problem::Refused(failure)) => return Ok(self.refuse(&task, TaskStatus::Failed, failure)),
                        Err(Problem::Passing(error)) => return Err(HandlerError::transient(error)),
                    },
                    () = in_hand.cancelled.cancelled() => {}
                }
                continue;
            };
            // The claim sees what has changed since the row was read.
            let begun = if ready.may_begin_before_the_claim(&task) {
                self.claim_and_execute(&task, ready, &in_hand).await?
            } else if let Some(claimed) = task_runs::claim(&self.pool, &task, &self.name).await? {
                let executed = self.execute(&claimed, ready, &in_hand).await;
                Some((claimed, executed))
            } else {
                prepared = Some(ready);
                None
            };
            if let Some((claimed, executed)) = begun {
                return self.finish(&claimed, executed, in_hand, on_its_way).await;
            }
            (task, function) = self.know(dispatch).await?;
        }
    }

    /// The task's row and its function. A producer may have published without the gateway: then the row is made here.
    async fn know(
        &self,
        dispatch: &Dispatch,
    ) -> Result<(Task, Option<KnownFunction>), HandlerError> {
        let new = &dispatch.task;
        match task_runs::know(&self.pool, new).await? {
            Known { task: Some(task), function } => Ok((task, function)),
            // Somebody else makes the row in this moment.
            Known { task: None, function: Some(function) } => {
                Ok((self.look(new.id).await?, Some(function)))
            }
            Known { task: None, function: None } => {
                Err(HandlerError::permanent(format!("unknown function {}", new.function)))
            }
        }
    }

    /// Whether another worker took the task: the home of its function, which is more likely to have its image than this
    /// one, which hasn't.
    async fn pass_on(
        &self,
        task: &Task,
        function: Option<&KnownFunction>,
        delivery: &Delivery,
    ) -> bool {
        // By its row: a message may have come to a worker that had no slot for it, and gone back.
        let is_new = task.state == TaskState::Queued && task.attempt == 0;
        if !(self.options.affinity && delivery.can_be_passed_on() && is_new) {
            return false;
        }
        let Some(function) = function else { return false };
        if image_choice::wanted_digest(function, &task.image)
            .is_some_and(|digest| self.images.has(digest) || self.codes.has(digest))
        {
            return false;
        }
        let Some(home) = self.peers.other_home(function.id, &self.name) else { return false };
        let is_taken = delivery.pass_on(&home).await;
        metrics::offered(if is_taken { "taken" } else { "refused" });
        if is_taken {
            tracing::debug!(task.id = %task.id(), function.id = %function.id, home, "passed on");
        }
        is_taken
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

    pub(crate) async fn is_overtaken(&self, task: &Task) -> Result<bool, HandlerError> {
        let now = patiently("reading a task", || tasks::get(&self.pool, task.id())).await?;
        Ok(now.is_none_or(|now| now.state.is_final() || now.attempt != task.attempt))
    }

    pub(crate) async fn overtaken_or(
        &self,
        task: &Task,
        error: Error,
    ) -> Result<Outcome, HandlerError> {
        if self.is_overtaken(task).await? {
            self.wait_out(task).await
        } else {
            Err(HandlerError::transient(error))
        }
    }

    /// A newer attempt has the task. Its message is the one we hold: an ack or a hand-back of ours would end its
    /// delivery or start yet another attempt. So this waits, and keeps quiet.
    pub(crate) async fn wait_out(&self, task: &Task) -> Result<Outcome, HandlerError> {
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

    pub(crate) fn refuse(&self, task: &Task, status: TaskStatus, failure: Failure) -> Outcome {
        tell_the_end(status);
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

/// The span says how the task ended.
pub(crate) fn tell_the_end(status: TaskStatus) {
    let span = Span::current();
    span.record("task.status", status.as_str_name());
    if !matches!(status, TaskStatus::Succeeded | TaskStatus::Cancelled) {
        span.record("otel.status_code", "ERROR").record("error.type", status.as_str_name());
    }
}
