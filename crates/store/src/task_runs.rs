//! What a worker reads and writes of a task, in as few statements as can be: each round trip is part of what a task
//! takes.

use mecapy_proto::FunctionId;
use sqlx::{FromRow as _, PgConnection, PgPool, Row as _};

use crate::scans::Standing;
use crate::tasks::{COLUMNS, Completion, NewTask, Task, past_attempt};
use crate::{Error, TaskState};

/// A task, and what it may run.
#[derive(Debug, Clone)]
pub struct Known {
    /// None: there is no such task, and no such function to make it for.
    pub task: Option<Task>,
    /// None: it is not there any more.
    pub function: Option<KnownFunction>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFunction {
    pub id: FunctionId,
    pub owner: String,
    /// Of its current version.
    pub docker_image: Option<String>,
    /// How the newest scan of that image stands.
    pub standing: Standing,
}

/// The task's row, made where a producer has published without the gateway, and its function.
pub async fn know(pool: &PgPool, new: &NewTask) -> Result<Known, Error> {
    let sql = format!(
        "with made as (
             insert into tasks (id, function_id, image, inputs_s3_key, timeout_ms, deadline, traceparent)
             select $1, $2, $3, $4, $5, $6, $7
             where exists (select 1 from functions where id = $2 and deleted_at is null)
             on conflict do nothing
             returning {COLUMNS}
         ), task as (
             select {COLUMNS} from made union all select {COLUMNS} from tasks where id = $1
         )
         select task.*, function.id as known_function, function.owner, function.docker_image,
             scan.verdict, scan.refused,
             -- Not waited for: before anything comes of this row, the claim is written, and with it all before it.
             set_config('synchronous_commit', 'off', true)
         from (select) as always
         left join task on true
         left join functions as function
             on function.id = coalesce(task.function_id, $2) and function.deleted_at is null
         left join lateral (
             select scans.verdict, bool_or(scans.refused) over () as refused from scans join builds on builds.id = scans.build_id
             where scans.digest = split_part(function.docker_image, '@', 2)
                 and builds.function_id = function.id
             order by scans.scanned_at desc limit 1
         ) as scan on true"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(new.id.uuid())
        .bind(new.function.get())
        .bind(&new.image)
        .bind(&new.inputs_s3_key)
        .bind(i64::try_from(new.timeout_ms).unwrap_or(i64::MAX))
        .bind(new.deadline)
        .bind(&new.traceparent)
        .fetch_one(pool)
        .await?;
    let has_task = row.try_get::<Option<uuid::Uuid>, _>("id")?.is_some();
    let function = match row.try_get::<Option<i64>, _>("known_function")? {
        Some(id) => Some(KnownFunction {
            id: FunctionId::new(id)
                .map_err(|_| Error::Unknown { column: "functions.id", value: id.to_string() })?,
            owner: row.try_get("owner")?,
            docker_image: row.try_get("docker_image")?,
            standing: {
                let verdict: Option<String> = row.try_get("verdict")?;
                let refused: Option<bool> = row.try_get("refused")?;
                Standing::of(verdict.zip(refused))
            },
        }),
        None => None,
    };
    let task = if has_task { Some(Task::from_row(&row)?) } else { None };
    Ok(Known { task, function })
}

/// Takes a task as it was read: → running, as the next attempt.
/// None: since then it has ended, was cancelled, or somebody else has taken it.
pub async fn claim(pool: &PgPool, task: &Task, worker: &str) -> Result<Option<Task>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "update tasks set state = 'running', attempt = attempt + 1, worker = $3, started_at = now(), {}
         where id = $1 and state = any($2) and not cancel_requested and attempt = $4
         returning {COLUMNS}",
        past_attempt!()
    )))
    .bind(task.id().uuid())
    .bind(TaskState::Running.predecessors())
    .bind(worker)
    .bind(task.attempt)
    .fetch_optional(pool)
    .await?)
}

/// Records the end of an attempt, and counts the task of its image, if one ran. False: the task has ended, or a newer
/// attempt has it; nothing changed.
pub async fn end(
    conn: &mut PgConnection,
    task: &Task,
    completion: &Completion,
) -> Result<bool, Error> {
    let failure = completion.failure.as_ref();
    let ended: bool = sqlx::query_scalar(
        "with ended as (
             update tasks set state = $4, digest = $5, cache = $6, timings = $7, result_key = $8, exit_code = $9,
                 error_code = $10, error_message = $11, error_log = $12, ended_at = now()
             where id = $1 and attempt = $2 and state = any($3)
             returning function_id
         ), counted as (
             insert into image_usage (day, digest, function_id, tasks)
             select (now() at time zone 'utc')::date, $5, function_id, 1 from ended where $5 is not null
             on conflict (day, digest, function_id) do update set tasks = image_usage.tasks + 1
         )
         select exists (select 1 from ended)",
    )
    .bind(task.id().uuid())
    .bind(task.attempt)
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
    .fetch_one(conn)
    .await?;
    Ok(ended)
}
