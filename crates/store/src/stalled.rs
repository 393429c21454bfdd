//! Work that stands still: its message was lost, or is a dead letter. The rows know what has to be sent again.
//!
//! How often that was done counts from the last move on: a build that moves has all its tries again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_proto::v1::{BuildRequested, TaskDispatch};
use mecapy_proto::{BuildId, Event, TaskId};
use sqlx::{FromRow as _, PgConnection, PgPool, Row as _};
use uuid::Uuid;

use crate::Error;
use crate::builds::{self, Build};
use crate::tasks::{self, Task};

/// The two halves of the sweep: each is done by one replica at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Finding work that stands still.
    Work,
    /// Removing what has had its use.
    Housekeeping,
}

impl Part {
    /// "mecaswee" and "mecahous" in ASCII.
    const fn lock(self) -> i64 {
        match self {
            Self::Work => 0x6d65_6361_7377_6565,
            Self::Housekeeping => 0x6d65_6361_686f_7573,
        }
    }
}

/// Takes the lock of a part until the transaction ends, however it ends. False: another replica has it.
pub async fn try_lock(conn: &mut PgConnection, part: Part) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
        .bind(part.lock())
        .fetch_one(conn)
        .await?)
}

/// A build that has not moved for a while.
#[derive(Debug, Clone)]
pub struct StalledBuild {
    pub build: Build,
    /// Of its function; empty for a base image.
    pub owner: String,
    /// When it last moved, or its event was last sent again.
    pub since: DateTime<Utc>,
    /// How often its event was sent again since it last moved.
    pub resent: u32,
    /// What asked for it, where that was kept.
    pub request: Option<BuildRequested>,
    /// The trace in which it was asked for.
    pub traceparent: Option<String>,
}

/// Open builds that have not moved for `longer_than`, longest first. None whose message waits in the outbox.
pub async fn builds(
    pool: &PgPool,
    longer_than: Duration,
    limit: u32,
) -> Result<Vec<StalledBuild>, Error> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS}, traceparent, greatest(updated_at, resent_at) as since,
             case when resent_at > updated_at then resent else 0 end as tries,
             (select owner from functions where functions.id = builds.function_id) as owner,
             (select event from kept_events where kept_events.id = builds.id) as event
         from builds
         where state in ('queued', 'building', 'scanning', 'publishing')
             and greatest(updated_at, resent_at) < now() - make_interval(secs => $1)
             and not exists (select 1 from outbox where split_part(message_id, '/', 2) = builds.id::text)
         order by since limit $2",
        COLUMNS = builds::COLUMNS
    )))
    .bind(longer_than.as_secs_f64())
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(StalledBuild {
                build: Build::from_row(row)?,
                owner: row.try_get::<Option<String>, _>("owner")?.unwrap_or_default(),
                since: row.try_get("since")?,
                resent: row.try_get::<i32, _>("tries")?.unsigned_abs(),
                request: kept(row.try_get("event")?),
                traceparent: row.try_get("traceparent")?,
            })
        })
        .collect()
}

/// Notes that the event is sent again. False: the build has moved since it was read, and nothing is to be sent.
pub async fn resend_build(conn: &mut PgConnection, stalled: &StalledBuild) -> Result<bool, Error> {
    let done = sqlx::query(
        "update builds set resent = $4, resent_at = now()
         where id = $1 and state = $2 and greatest(updated_at, resent_at) = $3",
    )
    .bind(stalled.build.id().uuid())
    .bind(stalled.build.state.as_str())
    .bind(stalled.since)
    .bind(i64::from(stalled.resent) + 1)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A task that has neither begun nor ended for a while.
#[derive(Debug, Clone)]
pub struct StalledTask {
    pub task: Task,
    /// When it was queued, began its newest attempt, or was last sent again.
    pub since: DateTime<Utc>,
    /// When its newest message was written.
    pub sent_at: DateTime<Utc>,
    pub resent: u32,
    /// What dispatched it, where that was kept.
    pub dispatch: Option<TaskDispatch>,
    /// The trace in which it was asked for.
    pub traceparent: Option<String>,
}

/// Tasks that are queued for `longer_than`, or run for that much longer than they may: as long as they ask for, and
/// `max_timeout` at most. None whose message waits in the outbox.
pub async fn tasks(
    pool: &PgPool,
    longer_than: Duration,
    max_timeout: Duration,
    limit: u32,
) -> Result<Vec<StalledTask>, Error> {
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS}, traceparent, greatest(created_at, started_at, resent_at) as since,
             greatest(created_at, resent_at) as sent_at,
             case when resent_at > greatest(created_at, started_at) then resent else 0 end as tries,
             (select event from kept_events where kept_events.id = tasks.id) as event
         from tasks
         where state in ('queued', 'running')
             and greatest(created_at, started_at, resent_at) < now() - make_interval(secs => $1 + case state
                 when 'running' then least(coalesce(nullif(timeout_ms, 0) / 1000.0, $2), $2) else 0 end)
             and not exists (select 1 from outbox where split_part(message_id, '/', 2) = tasks.id::text)
         order by since limit $3",
        COLUMNS = tasks::COLUMNS
    )))
    .bind(longer_than.as_secs_f64())
    .bind(max_timeout.as_secs_f64())
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(StalledTask {
                task: Task::from_row(row)?,
                since: row.try_get("since")?,
                sent_at: row.try_get("sent_at")?,
                resent: row.try_get::<i32, _>("tries")?.unsigned_abs(),
                dispatch: kept(row.try_get("event")?),
                traceparent: row.try_get("traceparent")?,
            })
        })
        .collect()
}

/// Notes that the task is dispatched again. False: it has moved since it was read.
pub async fn resend_task(conn: &mut PgConnection, stalled: &StalledTask) -> Result<bool, Error> {
    let done = sqlx::query(
        "update tasks set resent = $4, resent_at = now()
         where id = $1 and state = $2 and greatest(created_at, started_at, resent_at) = $3",
    )
    .bind(stalled.task.id().uuid())
    .bind(stalled.task.state.as_str())
    .bind(stalled.since)
    .bind(i64::from(stalled.resent) + 1)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps what asked for a build, in the transaction that makes it.
pub async fn keep_request(
    conn: &mut PgConnection,
    build: BuildId,
    event: &BuildRequested,
) -> Result<(), Error> {
    keep(conn, build.uuid(), event).await
}

/// What asked for a build, as long as it is kept.
pub async fn request(pool: &PgPool, build: BuildId) -> Result<Option<BuildRequested>, Error> {
    let event: Option<Vec<u8>> = sqlx::query_scalar("select event from kept_events where id = $1")
        .bind(build.uuid())
        .fetch_optional(pool)
        .await?;
    Ok(kept(event))
}

/// Keeps what dispatches a task, in the transaction that makes it. Only for inputs that are inside the event: all
/// else is in the task's row.
pub async fn keep_dispatch(
    conn: &mut PgConnection,
    task: TaskId,
    event: &TaskDispatch,
) -> Result<(), Error> {
    keep(conn, task.uuid(), event).await
}

async fn keep<E: Event>(conn: &mut PgConnection, id: Uuid, event: &E) -> Result<(), Error> {
    sqlx::query("insert into kept_events (id, event) values ($1, $2) on conflict do nothing")
        .bind(id)
        .bind(event.encode_to_vec())
        .execute(conn)
        .await?;
    Ok(())
}

/// What can't be read is as good as not kept.
fn kept<E: Event>(event: Option<Vec<u8>>) -> Option<E> {
    E::decode(event?.as_slice()).ok()
}

/// Rows in the outbox that no relay has sent for `longer_than`: their service does not run.
pub async fn unsent(pool: &PgPool, longer_than: Duration) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(
        "select count(*) from outbox where created_at < now() - make_interval(secs => $1)",
    )
    .bind(longer_than.as_secs_f64())
    .fetch_one(pool)
    .await?)
}
