//! Base images: runs of a matrix, whose cells are builds like any other, and functions that stand on older ones.
//!
//! A run ends with its last cell, in the transaction that ends that cell, wherever it comes from:
//! `builds` calls [`cell_ended`] for every end, and `base.done` goes out once, by the builder's outbox.

use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_proto::v1::build_requested::Source;
use mecapy_proto::v1::{BaseDone, BaseOutcome};
use mecapy_proto::{BuildId, FunctionId};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::builds::{self, Build};
use crate::outbox::{self, Message};
use crate::rebuilds::{self, Again, Earlier, OPEN};
use crate::{BuildState, Error};

/// Whose relay sends what is written here: the last cell may end in any service.
const SERVICE: &str = "builder";

/// A matrix that was asked for.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Run {
    pub id: String,
    /// schedule, push, manual
    pub reason: String,
    pub requested_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub ready: i64,
    pub rejected: i64,
    pub failed: i64,
    /// Cells that have not ended.
    pub open: i64,
}

/// Makes a run with its cells, queued. False: it is there already, and nothing changed.
pub async fn create_run(
    conn: &mut PgConnection,
    run: &str,
    reason: &str,
    cells: &[(BuildId, String)],
) -> Result<bool, Error> {
    let done =
        sqlx::query("insert into base_runs (id, reason) values ($1, $2) on conflict do nothing")
            .bind(run)
            .bind(reason)
            .execute(&mut *conn)
            .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    let (ids, bases): (Vec<Uuid>, Vec<&str>) =
        cells.iter().map(|(id, base)| (id.uuid(), base.as_str())).unzip();
    sqlx::query(
        "insert into builds (id, base, base_run)
         select id, base, $1 from unnest($2::uuid[], $3::text[]) as cells (id, base)",
    )
    .bind(run)
    .bind(ids)
    .bind(bases)
    .execute(conn)
    .await?;
    Ok(true)
}

const RUNS: &str = "select r.id, r.reason, r.requested_at, r.ended_at,
        count(*) filter (where b.state = 'ready') as ready,
        count(*) filter (where b.state = 'rejected') as rejected,
        count(*) filter (where b.state = 'failed') as failed,
        count(*) filter (where b.state not in ('ready', 'rejected', 'failed')) as open
    from base_runs r join builds b on b.base_run = r.id";

pub async fn run(pool: &PgPool, id: &str) -> Result<Option<Run>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!("{RUNS} where r.id = $1 group by r.id")))
        .bind(id)
        .fetch_optional(pool)
        .await?)
}

/// The newest runs.
pub async fn runs(pool: &PgPool, limit: u32) -> Result<Vec<Run>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "{RUNS} group by r.id order by r.requested_at desc, r.id limit $1"
    )))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}

/// The cells of a run, by name.
pub async fn cells(conn: &mut PgConnection, run: &str) -> Result<Vec<Build>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {} from builds where base_run = $1 order by base",
        builds::COLUMNS
    )))
    .bind(run)
    .fetch_all(conn)
    .await?)
}

/// Of each base image, the one that its tag leads to: ready, and asked for last.
pub async fn current(pool: &PgPool) -> Result<Vec<Build>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select distinct on (base) {} from builds where base is not null and state = 'ready'
         order by base, requested_at desc, id desc",
        builds::COLUMNS
    )))
    .fetch_all(pool)
    .await?)
}

/// Records which base image a function's image stands on.
pub async fn stands_on(conn: &mut PgConnection, id: BuildId, digest: &str) -> Result<(), Error> {
    sqlx::query("update builds set base_digest = $2 where id = $1")
        .bind(id.uuid())
        .bind(digest)
        .execute(&mut *conn)
        .await?;
    // Of a build that becomes the current one later, it is copied then.
    sqlx::query("update functions set base_digest = $2 where current_build = $1")
        .bind(id.uuid())
        .bind(digest)
        .execute(conn)
        .await?;
    Ok(())
}

/// A function whose current version stands on another image than its base's current one.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Stale {
    /// The build that the function runs now.
    #[sqlx(flatten)]
    pub current: Earlier,
    /// What it stands on. None: it was built before this was recorded.
    pub base_digest: Option<String>,
    /// What it would stand on now.
    pub newest_digest: String,
    /// A build of this version or a newer one is on its way: it stands on the newest.
    pub in_work: bool,
}

/// Of each base, the digest of the current one.
const CURRENT: &str = "c as (
        select distinct on (base) base, digest from builds where base is not null and state = 'ready'
        order by base, requested_at desc, id desc
    )";

/// Functions that are stale: `f`, on a base whose current one is `c`.
const STALE: &str = "functions f join c on c.base = f.base
    where f.deleted_at is null and f.base_digest is distinct from c.digest";

/// The next digest that functions of a base stand on.
const NEXT: &str = "select f.base_digest from functions f
    where f.deleted_at is null and f.base_digest is not null and f.base";

/// Those after function $1, at most $2, from one digest to the next by the index: there are few digests, and nearly all
/// functions stand on the current ones.
fn after() -> String {
    format!(
        "with recursive {CURRENT}, older as (
             select c.base, c.digest as newest, ({NEXT} = c.base order by f.base_digest limit 1) as digest from c
             union all
             select o.base, o.newest,
                 ({NEXT} = o.base and f.base_digest > o.digest order by f.base_digest limit 1)
             from older o where o.digest is not null
         ), stale as (
             select f.id, o.newest from older o cross join lateral (
                 select f.id from functions f where f.deleted_at is null and f.base = o.base and f.base_digest = o.digest
                     and f.id > $1 order by f.id limit $2
             ) f where o.digest <> o.newest
             union all
             select f.id, c.digest from c cross join lateral (
                 select f.id from functions f where f.deleted_at is null and f.base = c.base and f.base_digest is null
                     and f.id > $1 order by f.id limit $2
             ) f
             order by id limit $2
         )"
    )
}

/// All that is known of stale functions, of which `stale` has the numbers.
fn stale_ones() -> String {
    format!(
        "select f.id as function_id, f.owner, f.name, v.version, b.id as build, v.python_version, v.base_variant,
             v.requirements, f.base_digest, s.newest as newest_digest,
             exists (select 1 from builds o where o.function_id = f.id and o.version >= b.version and {OPEN}) as in_work
         from stale s join functions f on f.id = s.id join builds b on b.id = f.current_build
         join versions v on v.function_id = b.function_id and v.version = b.version order by f.id"
    )
}

/// Live functions that stand on an older base image, by id.
pub async fn stale(pool: &PgPool) -> Result<Vec<Stale>, Error> {
    stale_after(pool, 0, None).await
}

/// Those after a function, as many as there is room for.
pub async fn stale_after(
    pool: &PgPool,
    function: i64,
    limit: Option<u32>,
) -> Result<Vec<Stale>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!("{} {}", after(), stale_ones())))
        .bind(function)
        .bind(limit.map(i64::from))
        .fetch_all(pool)
        .await?)
}

/// Which of these functions are stale.
pub async fn stale_of(pool: &PgPool, functions: &[FunctionId]) -> Result<Vec<Stale>, Error> {
    let ids: Vec<i64> = functions.iter().map(|id| id.get()).collect();
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "with {CURRENT}, stale as (select f.id, c.digest as newest from {STALE} and f.id = any($1)) {}",
        stale_ones()
    )))
    .bind(ids)
    .fetch_all(pool)
    .await?)
}

/// Asks for a build of the same version on the newest base, from the source that its last builder kept. The event is
/// sent by the builder's outbox. None: the function has moved on since it was read, or is on its way.
pub async fn rebuild(
    conn: &mut PgConnection,
    stale: &Stale,
    source_key: &str,
) -> Result<Option<BuildId>, Error> {
    match ask_again(conn, stale, source_key).await? {
        Again::Asked(event) => {
            outbox::insert(conn, SERVICE, &[Message::of(event.as_ref())]).await?;
            Ok(event.build_id.parse().ok())
        }
        Again::OnItsWay(_) | Again::Gone => Ok(None),
    }
}

/// The same, for who sends the event by an outbox of its own. What has moved on is gone.
pub async fn ask_again(
    conn: &mut PgConnection,
    stale: &Stale,
    source_key: &str,
) -> Result<Again, Error> {
    let is_as_read: Option<i64> = sqlx::query_scalar(
        "select id from functions where id = $1 and current_build = $2 and deleted_at is null for update",
    )
    .bind(stale.current.function_id()?.get())
    .bind(stale.current.build().uuid())
    .fetch_optional(&mut *conn)
    .await?;
    match is_as_read {
        Some(_) => {
            rebuilds::ask(conn, &stale.current, Source::SourceS3Key(source_key.to_owned())).await
        }
        None => Ok(Again::Gone),
    }
}

/// Called for each build that has just ended. Of the last cell of a run it ends the run, and writes `base.done`.
pub(crate) async fn cell_ended(conn: &mut PgConnection, id: BuildId) -> Result<(), Error> {
    let run: Option<Option<String>> =
        sqlx::query_scalar("select base_run from builds where id = $1")
            .bind(id.uuid())
            .fetch_optional(&mut *conn)
            .await?;
    let Some(run) = run.flatten() else { return Ok(()) };
    // The lock orders cells that end at once: whoever is second sees what the first has committed.
    let requested_at: Option<DateTime<Utc>> = sqlx::query_scalar(
        "select requested_at from base_runs where id = $1 and ended_at is null for update",
    )
    .bind(&run)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(requested_at) = requested_at else { return Ok(()) };
    let cells = cells(conn, &run).await?;
    if cells.iter().any(|cell| !cell.state.is_final()) {
        return Ok(());
    }
    let count = format!("with {CURRENT} select count(*) from {STALE}");
    let stale: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&mut *conn).await?;
    let took: Duration = (Utc::now() - requested_at).to_std().unwrap_or_default();
    let done = BaseDone {
        run_id: run,
        outcomes: cells.iter().map(outcome).collect(),
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        stale_functions: u32::try_from(stale).unwrap_or(u32::MAX),
    };
    sqlx::query("update base_runs set ended_at = now(), outcomes = $2 where id = $1")
        .bind(&done.run_id)
        .bind(serde_json::to_value(&done.outcomes).unwrap_or_default())
        .execute(&mut *conn)
        .await?;
    outbox::insert(conn, SERVICE, &[Message::of(&done)]).await?;
    Ok(())
}

fn outcome(cell: &Build) -> BaseOutcome {
    BaseOutcome {
        base: cell.base.clone().unwrap_or_default(),
        build_id: cell.id().to_string(),
        status: cell.state.as_str().to_owned(),
        image: cell
            .docker_image
            .clone()
            .filter(|_| cell.state == BuildState::Ready)
            .unwrap_or_default(),
        failure: cell.failure().map(Into::into),
    }
}
