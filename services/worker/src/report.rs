//! The end of a task, as it is written and told: row, usage and `task.done` in one transaction.

use mecapy_bus::{Outcome, Outgoing};
use mecapy_proto::v1::{CacheOutcome, Failure, TaskDone, TaskStatus, TaskTimings};
use mecapy_registry::Digest;
use mecapy_store::tasks::{Completion, Task};
use mecapy_store::{PgConnection, PgPool, StoredFailure, TaskState, task_runs, tasks};

use crate::metric_definitions as metrics;

/// What is to be recorded of an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// With its attempt, the fence: only if it is still the newest is anything recorded.
    task: Task,
    worker: String,
    pub status: TaskStatus,
    pub failure: Option<Failure>,
    pub exit_code: Option<i32>,
    /// Of the image that ran. None: none did.
    pub ran: Option<(Digest, CacheOutcome)>,
    pub timings: TaskTimings,
    pub result_key: Option<String>,
}

impl Report {
    /// An end of which nothing more is known.
    pub(crate) fn of(task: &Task, worker: &str, status: TaskStatus) -> Self {
        Self {
            task: task.clone(),
            worker: worker.to_owned(),
            status,
            failure: None,
            exit_code: None,
            ran: None,
            timings: TaskTimings::default(),
            result_key: None,
        }
    }

    /// The effect of the handled message. An attempt that a newer one has overtaken must leave no trace at all:
    /// were the message noted as handled, the newer attempt's own result would be taken for a duplicate.
    pub(crate) fn into_outcome(self, pool: PgPool) -> Outcome {
        Outcome::commit(move |conn| Box::pin(async move { self.record(conn, &pool).await }))
    }

    async fn record(
        self,
        conn: &mut PgConnection,
        pool: &PgPool,
    ) -> Result<Outgoing, mecapy_store::Error> {
        if !task_runs::end(conn, &self.task, &self.completion()).await? {
            return match tasks::get(pool, self.task.id()).await? {
                Some(task) if !task.state.is_final() => Err(mecapy_store::Error::Unknown {
                    column: "tasks.attempt",
                    value: format!(
                        "{}, while the result is of attempt {}",
                        task.attempt, self.task.attempt
                    ),
                }),
                _ => Ok(Outgoing::none()),
            };
        }
        metrics::ended(self.status);
        Ok(Outgoing::event(&self.event()))
    }

    fn completion(&self) -> Completion {
        Completion {
            state: state(self.status),
            digest: self.ran.map(|(digest, _)| digest.to_string()),
            cache: self.ran.map(|(_, cache)| cache.as_str_name().to_owned()),
            // Numbers and strings only: it can't fail.
            timings: serde_json::to_value(self.timings).unwrap_or_default(),
            result_key: self.result_key.clone(),
            exit_code: self.exit_code,
            failure: self.failure.clone().map(StoredFailure::from),
        }
    }

    fn event(&self) -> TaskDone {
        TaskDone {
            task_id: self.task.id().to_string(),
            function_id: self.task.function_id,
            attempt: self.task.attempt.unsigned_abs(),
            status: self.status.into(),
            cache: self.ran.map_or(CacheOutcome::Unspecified, |(_, cache)| cache).into(),
            timings: Some(self.timings),
            result_key: self.result_key.clone().unwrap_or_default(),
            failure: self.failure.clone(),
            worker: self.worker.clone(),
            exit_code: self.exit_code,
        }
    }
}

fn state(status: TaskStatus) -> TaskState {
    match status {
        TaskStatus::Succeeded => TaskState::Succeeded,
        TaskStatus::TimedOut => TaskState::TimedOut,
        TaskStatus::Oom => TaskState::Oom,
        TaskStatus::Cancelled => TaskState::Cancelled,
        TaskStatus::Lost => TaskState::Lost,
        TaskStatus::Failed | TaskStatus::Unspecified => TaskState::Failed,
    }
}
