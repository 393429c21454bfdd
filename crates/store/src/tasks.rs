//! Tasks and their attempts. The attempt's number is the fence: only the newest one may record a result.

use chrono::{DateTime, Utc};
use mecapy_proto::{FunctionId, TaskId};
use serde::Deserialize;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{Error, StoredFailure, TaskState, stored_failure};

pub(crate) const COLUMNS: &str =
    "id, function_id, image, state, attempt, cancel_requested, inputs_s3_key, timeout_ms, deadline,
    worker, digest, cache, timings, result_key, exit_code, error_code, error_message, error_log,
    created_at, started_at, ended_at";

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Task {
    id: Uuid,
    pub function_id: i64,
    pub image: String,
    #[sqlx(try_from = "String")]
    pub state: TaskState,
    pub attempt: i32,
    pub cancel_requested: bool,
    pub inputs_s3_key: Option<String>,
    pub timeout_ms: i64,
    pub deadline: Option<DateTime<Utc>>,
    pub worker: Option<String>,
    pub digest: Option<String>,
    /// HIT, MISS or FAILOVER
    pub cache: Option<String>,
    /// As the events carry them.
    pub timings: Option<Value>,
    pub result_key: Option<String>,
    pub exit_code: Option<i32>,
    error_code: Option<String>,
    error_message: Option<String>,
    error_log: Option<Vec<String>>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Task {
    pub fn id(&self) -> TaskId {
        TaskId::from_uuid(self.id)
    }

    pub fn failure(&self) -> Option<StoredFailure> {
        stored_failure(self.error_code.clone(), self.error_message.clone(), self.error_log.clone())
    }
}

#[derive(Debug, Clone)]
pub struct NewTask {
    pub id: TaskId,
    pub function: FunctionId,
    pub image: String,
    pub inputs_s3_key: Option<String>,
    pub timeout_ms: u64,
    pub deadline: Option<DateTime<Utc>>,
    /// The trace in which it is asked for.
    pub traceparent: Option<String>,
}

/// Makes a task, queued. False: it is there already.
pub async fn create(conn: &mut PgConnection, task: &NewTask) -> Result<bool, Error> {
    let done = sqlx::query(
        "insert into tasks (id, function_id, image, inputs_s3_key, timeout_ms, deadline, traceparent)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
    )
    .bind(task.id.uuid())
    .bind(task.function.get())
    .bind(&task.image)
    .bind(&task.inputs_s3_key)
    .bind(i64::try_from(task.timeout_ms).unwrap_or(i64::MAX))
    .bind(task.deadline)
    .bind(&task.traceparent)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn get(pool: &PgPool, id: TaskId) -> Result<Option<Task>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!("select {COLUMNS} from tasks where id = $1")))
        .bind(id.uuid())
        .fetch_optional(pool)
        .await?)
}

/// The newest tasks of a function.
pub async fn list(pool: &PgPool, function: FunctionId, limit: u32) -> Result<Vec<Task>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from tasks where function_id = $1 order by created_at desc limit $2"
    )))
    .bind(function.get())
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}

/// An attempt that another one has followed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PastAttempt {
    pub attempt: i32,
    pub worker: Option<String>,
    pub started_at: DateTime<Utc>,
}

/// The trace in which a task was asked for, and the attempts before its newest, oldest first. None: no such task.
pub async fn past_attempts(
    pool: &PgPool,
    id: TaskId,
) -> Result<Option<(Option<String>, Vec<PastAttempt>)>, Error> {
    let row: Option<(Option<String>, Json<Vec<PastAttempt>>)> =
        sqlx::query_as("select traceparent, past_attempts from tasks where id = $1")
            .bind(id.uuid())
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|(traceparent, attempts)| (traceparent, attempts.0)))
}

/// What a claim notes of the attempt that it follows.
macro_rules! past_attempt {
    () => {
        "past_attempts = case attempt when 0 then past_attempts else past_attempts || jsonb_build_object(
             'attempt', attempt, 'worker', worker, 'started_at', started_at) end"
    };
}
pub(crate) use past_attempt;

/// Takes a task: queued or running → running, as the next attempt.
/// None: it has ended, or was cancelled, or is not there.
pub async fn claim(pool: &PgPool, id: TaskId, worker: &str) -> Result<Option<Task>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "update tasks set state = 'running', attempt = attempt + 1, worker = $3, started_at = now(), {}
         where id = $1 and state = any($2) and not cancel_requested
         returning {COLUMNS}",
        past_attempt!()
    )))
    .bind(id.uuid())
    .bind(TaskState::Running.predecessors())
    .bind(worker)
    .fetch_optional(pool)
    .await?)
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub struct Completion {
    pub state: TaskState,
    pub digest: Option<String>,
    pub cache: Option<String>,
    pub timings: Value,
    pub result_key: Option<String>,
    pub exit_code: Option<i32>,
    pub failure: Option<StoredFailure>,
}

/// Records the end of an attempt. False: the task has ended, or a newer attempt has it; nothing changed.
pub async fn complete(
    conn: &mut PgConnection,
    id: TaskId,
    attempt: i32,
    completion: &Completion,
) -> Result<bool, Error> {
    let failure = completion.failure.as_ref();
    let done = sqlx::query(
        "update tasks set state = $4, digest = $5, cache = $6, timings = $7, result_key = $8, exit_code = $9,
             error_code = $10, error_message = $11, error_log = $12, ended_at = now()
         where id = $1 and attempt = $2 and state = any($3)",
    )
    .bind(id.uuid())
    .bind(attempt)
    .bind(completion.state.predecessors())
    .bind(completion.state.as_str())
    .bind(&completion.digest)
    .bind(&completion.cache)
    .bind(&completion.timings)
    .bind(&completion.result_key)
    .bind(completion.exit_code)
    .bind(failure.map(|failure| &failure.code))
    .bind(failure.map(|failure| &failure.message))
    .bind(failure.map(|failure| &failure.log))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether no worker has taken it yet. Locked, so that none does as long as the transaction lives.
pub async fn is_queued(conn: &mut PgConnection, id: TaskId) -> Result<bool, Error> {
    let state: Option<String> =
        sqlx::query_scalar("select state from tasks where id = $1 for no key update")
            .bind(id.uuid())
            .fetch_optional(conn)
            .await?;
    Ok(state.map(TaskState::try_from).transpose()? == Some(TaskState::Queued))
}

/// Asks for a task's end. A queued one is cancelled at once; a running one by its worker.
/// The state after it; none if there is no such task.
pub async fn cancel(conn: &mut PgConnection, id: TaskId) -> Result<Option<TaskState>, Error> {
    let state: Option<String> = sqlx::query_scalar(
        "update tasks set
             cancel_requested = cancel_requested or state in ('queued', 'running'),
             ended_at = case state when 'queued' then now() else ended_at end,
             error_code = case state when 'queued' then 'task-cancelled' else error_code end,
             error_message = case state when 'queued' then 'cancelled before it started' else error_message end,
             state = case state when 'queued' then 'cancelled' else state end
         where id = $1 returning state",
    )
    .bind(id.uuid())
    .fetch_optional(conn)
    .await?;
    state.map(TaskState::try_from).transpose()
}

/// How many tasks are queued and running.
pub async fn open_counts(pool: &PgPool) -> Result<Vec<(String, i64)>, Error> {
    Ok(sqlx::query_as(
        "select state, count(*) from tasks where state in ('queued', 'running') group by state",
    )
    .fetch_all(pool)
    .await?)
}
