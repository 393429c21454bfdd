//! Runs of the janitor. A run that was cut off is gone on with by whoever raises its fence.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Mutex;

use crate::{Error, cleanup_items};

/// Rows of one statement.
const BATCH: usize = 5_000;
/// Of PostgreSQL's advisory locks: the one that a run holds.
const LOCK: i64 = 0x6d65_6361_7079_0001;

const RUN: &str = "id, kind, state, dry_run, confirmed, reason, target, fence, images_seen, storage_bytes,
    planned_images, planned_bytes, freed_bytes, days_until_limit, stopped, problem, report_key, requested_at,
    planned_at, ended_at";

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Run {
    pub id: String,
    /// cleanup, undo
    pub kind: String,
    /// planning, applying, done, failed
    pub state: String,
    pub dry_run: bool,
    pub confirmed: bool,
    pub reason: String,
    /// What an undo puts back.
    pub target: String,
    pub fence: i32,
    pub images_seen: i64,
    pub storage_bytes: i64,
    pub planned_images: i64,
    pub planned_bytes: i64,
    pub freed_bytes: i64,
    pub days_until_limit: Option<i32>,
    pub stopped: String,
    pub problem: String,
    pub report_key: String,
    pub requested_at: DateTime<Utc>,
    pub planned_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Run {
    pub fn has_ended(&self) -> bool {
        matches!(self.state.as_str(), "done" | "failed")
    }

    pub fn has_plan(&self) -> bool {
        self.planned_at.is_some()
    }
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Request<'r> {
    pub id: &'r str,
    pub kind: &'static str,
    pub dry_run: bool,
    pub confirmed: bool,
    pub reason: &'r str,
    pub target: &'r str,
}

/// An answer that takes longer than this is none: the connection may be gone without a word.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// A connection that holds the lock of the janitor's runs. Dropping it gives the lock back; and when PostgreSQL drops
/// it, another replica may have the lock.
#[derive(Debug)]
pub struct Lock {
    connection: Mutex<PgConnection>,
}

impl Lock {
    /// None: another replica has it.
    pub async fn try_take(pool: &PgPool) -> Result<Option<Self>, Error> {
        // Taken out of the pool, so that it is closed when this is dropped, however that comes.
        let mut connection = pool.acquire().await?.detach();
        let taken: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut connection)
            .await?;
        Ok(taken.then_some(Self { connection: Mutex::new(connection) }))
    }

    /// Whether the lock is held still: it is the connection's, so whoever is answered on it has it.
    pub async fn is_held(&self) -> bool {
        let asked = async {
            let mut connection = self.connection.lock().await;
            sqlx::query("select 1").execute(&mut *connection).await.is_ok()
        };
        tokio::time::timeout(ANSWERS_WITHIN, asked).await.unwrap_or(false)
    }

    pub async fn release(self) -> Result<(), Error> {
        let mut connection = self.connection.into_inner();
        sqlx::query("select pg_advisory_unlock($1)").bind(LOCK).execute(&mut connection).await?;
        sqlx::Connection::close(connection).await?;
        Ok(())
    }
}

/// Takes a run: makes its row, or goes on with it under a higher fence.
pub async fn take(pool: &PgPool, request: &Request<'_>) -> Result<Run, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "insert into cleanup_runs (id, kind, dry_run, confirmed, reason, target, fence)
         values ($1, $2, $3, $4, $5, $6, 1)
         on conflict (id) do update set
             fence = cleanup_runs.fence + (cleanup_runs.state <> 'done')::integer,
             -- Asked for again, after it failed.
             state = case when cleanup_runs.state <> 'failed' then cleanup_runs.state
                 when cleanup_runs.planned_at is null then 'planning' else 'applying' end,
             ended_at = case when cleanup_runs.state = 'failed' then null else cleanup_runs.ended_at end
         returning {RUN}"
    )))
    .bind(request.id)
    .bind(request.kind)
    .bind(request.dry_run)
    .bind(request.confirmed)
    .bind(request.reason)
    .bind(request.target)
    .fetch_one(pool)
    .await?)
}

/// What a plan comes to.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    pub images_seen: i64,
    pub storage_bytes: i64,
    pub images: i64,
    pub bytes: i64,
    pub stopped: String,
}

/// Keeps a plan, whole or not at all: planning → applying. False: the run is another's now.
pub async fn plan(
    pool: &PgPool,
    run: &str,
    fence: i32,
    planned: &Planned,
    items: &[cleanup_items::NewItem],
) -> Result<bool, Error> {
    let mut transaction = pool.begin().await?;
    let done = sqlx::query(
        "update cleanup_runs set state = 'applying', images_seen = $3, storage_bytes = $4, planned_images = $5,
             planned_bytes = $6, stopped = $7, planned_at = now(), problem = ''
         where id = $1 and fence = $2 and state = 'planning'",
    )
    .bind(run)
    .bind(fence)
    .bind(planned.images_seen)
    .bind(planned.storage_bytes)
    .bind(planned.images)
    .bind(planned.bytes)
    .bind(&planned.stopped)
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    let mut position = 0_i32;
    for page in items.chunks(BATCH) {
        cleanup_items::insert(&mut transaction, run, &mut position, page).await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// How a run ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    pub freed_bytes: i64,
    pub storage_bytes: i64,
    pub days_until_limit: Option<i32>,
    pub report_key: String,
}

/// The end of a run. False: it had ended, nothing changed. Whoever comes this far has found nothing left that is
/// planned, so it does not matter whose the run is by now.
pub async fn finish(conn: &mut PgConnection, run: &str, ended: &Ended) -> Result<bool, Error> {
    let done = sqlx::query(
        "update cleanup_runs set state = 'done', freed_bytes = $2, storage_bytes = $3, days_until_limit = $4,
             report_key = $5, problem = '', ended_at = now()
         where id = $1 and state = 'applying'",
    )
    .bind(run)
    .bind(ended.freed_bytes)
    .bind(ended.storage_bytes)
    .bind(ended.days_until_limit)
    .bind(&ended.report_key)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Tells whoever follows the run what is in its way; for good where it `failed`.
pub async fn hindered(pool: &PgPool, run: &str, problem: &str, failed: bool) -> Result<(), Error> {
    sqlx::query(
        "update cleanup_runs set problem = $2, state = case when $3 then 'failed' else state end,
             ended_at = case when $3 then now() else ended_at end
         where id = $1 and state in ('planning', 'applying')",
    )
    .bind(run)
    .bind(problem)
    .bind(failed)
    .execute(pool)
    .await?;
    Ok(())
}

pub async fn get(pool: &PgPool, run: &str) -> Result<Option<Run>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!("select {RUN} from cleanup_runs where id = $1")))
        .bind(run)
        .fetch_optional(pool)
        .await?)
}

/// The newest runs.
pub async fn list(pool: &PgPool, limit: i64) -> Result<Vec<Run>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {RUN} from cleanup_runs order by requested_at desc, id limit $1"
    )))
    .bind(limit)
    .fetch_all(pool)
    .await?)
}

/// Forgets manifests and runs after their time.
pub async fn forget_old(pool: &PgPool, manifests: chrono::Duration) -> Result<(), Error> {
    sqlx::query(
        "update cleanup_items set manifest = null where manifest is not null and updated_at < $1",
    )
    .bind(Utc::now() - manifests)
    .execute(pool)
    .await?;
    sqlx::query("delete from cleanup_runs where requested_at < now() - interval '1 year'")
        .execute(pool)
        .await?;
    Ok(())
}
