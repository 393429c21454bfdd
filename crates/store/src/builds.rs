//! Builds, and the moves of their state. A build is of a function's version, or of a base image.

use chrono::{DateTime, Utc};
use mecapy_proto::{BuildId, FunctionId};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{BuildState, Error, StoredFailure, bases, stored_failure};

pub(crate) const COLUMNS: &str = "id, function_id, coalesce(version, 0) as version, base, base_run, base_digest, state, cancel_requested, staging_image, digest, tag, size_bytes,
    dependency_image, lock_key, log_key, build_duration_ms, docker_image, error_code, error_message, error_log,
    requested_at, started_at, built_at, scanned_at, ended_at";

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Build {
    id: Uuid,
    function_id: Option<i64>,
    /// 0 for a base image.
    pub version: i32,
    /// "3.11-slim": the base image that it is of.
    pub base: Option<String>,
    pub base_run: Option<String>,
    /// Of a function: the base image that its image stands on.
    pub base_digest: Option<String>,
    #[sqlx(try_from = "String")]
    pub state: BuildState,
    pub cancel_requested: bool,
    pub staging_image: Option<String>,
    pub digest: Option<String>,
    pub tag: Option<String>,
    pub size_bytes: Option<i64>,
    pub dependency_image: Option<String>,
    pub lock_key: Option<String>,
    pub log_key: Option<String>,
    pub build_duration_ms: Option<i64>,
    pub docker_image: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
    error_log: Option<Vec<String>>,
    pub requested_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub built_at: Option<DateTime<Utc>>,
    pub scanned_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Build {
    pub fn id(&self) -> BuildId {
        BuildId::from_uuid(self.id)
    }

    /// None: it is of a base image.
    pub fn function_id(&self) -> Result<Option<FunctionId>, Error> {
        self.function_id
            .map(|id| {
                FunctionId::new(id).map_err(|_| Error::Unknown {
                    column: "builds.function_id",
                    value: id.to_string(),
                })
            })
            .transpose()
    }

    pub fn failure(&self) -> Option<StoredFailure> {
        stored_failure(self.error_code.clone(), self.error_message.clone(), self.error_log.clone())
    }
}

/// Makes a build of a version, queued. False: it is there already.
pub async fn create(
    conn: &mut PgConnection,
    id: BuildId,
    function: FunctionId,
    version: u32,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "insert into builds (id, function_id, version) values ($1, $2, $3) on conflict do nothing",
    )
    .bind(id.uuid())
    .bind(function.get())
    .bind(i64::from(version))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps the trace in which a build is asked for, in the transaction that makes it.
pub async fn keep_trace(
    conn: &mut PgConnection,
    id: BuildId,
    traceparent: Option<&str>,
) -> Result<(), Error> {
    let Some(traceparent) = traceparent else { return Ok(()) };
    sqlx::query("update builds set traceparent = $2 where id = $1")
        .bind(id.uuid())
        .bind(traceparent)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn get(pool: &PgPool, id: BuildId) -> Result<Option<Build>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!("select {COLUMNS} from builds where id = $1")))
        .bind(id.uuid())
        .fetch_optional(pool)
        .await?)
}

/// The newest build of a function. Within a version one that is ready comes first: a rebuild on a newer base
/// changes nothing for the function before it is ready.
pub async fn newest(pool: &PgPool, function: FunctionId) -> Result<Option<Build>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from builds where function_id = $1 order by version desc, (state = 'ready') desc, requested_at desc limit 1"
    )))
    .bind(function.get())
    .fetch_optional(pool)
    .await?)
}

/// Whether `digest` is the image of a newer build of the same function, or of the same base image: of a higher
/// version, or asked for later.
pub async fn is_of_a_newer(pool: &PgPool, digest: &str, id: BuildId) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "select exists (
             select 1 from builds b join builds newer
                 on newer.function_id = b.function_id or newer.base = b.base
             where b.id = $1 and newer.digest = $2
                 and (coalesce(newer.version, 0), newer.requested_at, newer.id)
                     > (coalesce(b.version, 0), b.requested_at, b.id))",
    )
    .bind(id.uuid())
    .bind(digest)
    .fetch_one(pool)
    .await?)
}

/// The highest version of the same function that was asked for after this build and has not failed, nor is to be
/// cancelled. None: this is the newest.
pub async fn newer_version(pool: &PgPool, id: BuildId) -> Result<Option<i32>, Error> {
    Ok(sqlx::query_scalar(
        "select max(newer.version) from builds b join builds newer
             on newer.function_id = b.function_id and newer.version > b.version
                 and newer.requested_at >= b.requested_at
         where b.id = $1 and not newer.cancel_requested
             and newer.state in ('queued', 'building', 'scanning', 'publishing', 'ready')",
    )
    .bind(id.uuid())
    .fetch_one(pool)
    .await?)
}

/// How many builds are in each state that is not an end.
pub async fn open_counts(pool: &PgPool) -> Result<Vec<(String, i64)>, Error> {
    Ok(sqlx::query_as(
        "select state, count(*) from builds where state in ('queued', 'building', 'scanning', 'publishing') group by state",
    )
    .fetch_all(pool)
    .await?)
}

/// queued → building. The state it is in now; none if there is no such build.
///
/// A build that is `building` already stays so: its builder died, and this one takes it over.
pub async fn start(pool: &PgPool, id: BuildId) -> Result<Option<BuildState>, Error> {
    sqlx::query("update builds set state = 'building', started_at = now(), updated_at = now() where id = $1 and state = any($2)")
        .bind(id.uuid())
        .bind(BuildState::Building.predecessors())
        .execute(pool)
        .await?;
    let state: Option<String> = sqlx::query_scalar("select state from builds where id = $1")
        .bind(id.uuid())
        .fetch_optional(pool)
        .await?;
    state.map(BuildState::try_from).transpose()
}

/// What the builder leaves.
#[derive(Debug, Clone)]
pub struct Built {
    pub staging_image: String,
    pub digest: String,
    pub tag: String,
    pub size_bytes: u64,
    pub dependency_image: String,
    pub lock_key: Option<String>,
    pub log_key: String,
    pub duration_ms: u64,
}

/// building → scanning. False: the build is elsewhere, nothing changed.
pub async fn built(conn: &mut PgConnection, id: BuildId, built: &Built) -> Result<bool, Error> {
    let done = sqlx::query(
        "update builds set state = 'scanning', staging_image = $3, digest = $4, tag = $5, size_bytes = $6,
             dependency_image = $7, lock_key = $8, log_key = $9, build_duration_ms = $10,
             built_at = now(), updated_at = now()
         where id = $1 and state = any($2)",
    )
    .bind(id.uuid())
    .bind(BuildState::Scanning.predecessors())
    .bind(&built.staging_image)
    .bind(&built.digest)
    .bind(&built.tag)
    .bind(saturating(built.size_bytes))
    .bind(&built.dependency_image)
    .bind(&built.lock_key)
    .bind(&built.log_key)
    .bind(saturating(built.duration_ms))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// scanning → publishing or rejected. False: the build is elsewhere, or has another digest; nothing changed.
pub async fn scanned(
    conn: &mut PgConnection,
    id: BuildId,
    digest: &str,
    passed: bool,
) -> Result<bool, Error> {
    let next = if passed { BuildState::Publishing } else { BuildState::Rejected };
    let done = sqlx::query(
        "update builds set state = $3, scanned_at = now(), updated_at = now(),
             ended_at = case when $5 then ended_at else now() end
         where id = $1 and state = any($2) and digest = $4",
    )
    .bind(id.uuid())
    .bind(next.predecessors())
    .bind(next.as_str())
    .bind(digest)
    .bind(passed)
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 1 && !passed {
        ended(conn, id).await?;
    }
    Ok(done.rows_affected() == 1)
}

/// publishing → ready, and the function now runs this image, unless a newer build of it is ready already.
pub async fn published(
    conn: &mut PgConnection,
    id: BuildId,
    docker_image: &str,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update builds set state = 'ready', docker_image = $3, ended_at = now(), updated_at = now()
         where id = $1 and state = any($2)",
    )
    .bind(id.uuid())
    .bind(BuildState::Ready.predecessors())
    .bind(docker_image)
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "update functions f set current_build = b.id, docker_image = b.docker_image, image_size = b.size_bytes,
             build_duration_ms = b.build_duration_ms, build_status = 'ready', build_logs_s3_key = b.log_key
         from builds b
         where b.id = $1 and f.id = b.function_id
           and not exists (select 1 from builds c where c.id = f.current_build
               and (c.version, c.requested_at, c.id) > (b.version, b.requested_at, b.id))",
    )
    .bind(id.uuid())
    .execute(&mut *conn)
    .await?;
    bases::cell_ended(conn, id).await?;
    Ok(true)
}

/// An image on a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its host.
    pub registry: String,
    pub digest: String,
}

/// Records where an image is published, in the transaction that makes its build ready.
pub async fn published_on(
    conn: &mut PgConnection,
    id: BuildId,
    places: &[Place],
) -> Result<(), Error> {
    sqlx::query("update builds set published = $2 where id = $1")
        .bind(id.uuid())
        .bind(sqlx::types::Json(places))
        .execute(conn)
        .await?;
    Ok(())
}

/// Any state that is not an end → failed. False: it had ended already, nothing changed.
pub async fn fail(
    conn: &mut PgConnection,
    id: BuildId,
    failure: &StoredFailure,
    log_key: Option<&str>,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update builds set state = 'failed', error_code = $3, error_message = $4, error_log = $5,
             log_key = coalesce($6, log_key), ended_at = now(), updated_at = now()
         where id = $1 and state = any($2)",
    )
    .bind(id.uuid())
    .bind(BuildState::Failed.predecessors())
    .bind(&failure.code)
    .bind(&failure.message)
    .bind(&failure.log)
    .bind(log_key)
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 1 {
        ended(conn, id).await?;
    }
    Ok(done.rows_affected() == 1)
}

/// Asks for a build's end. One that no builder has begun has ended; a running one is ended by its builder; one
/// that is built goes on. The state that it was in; none if there is no such build.
pub async fn cancel(
    conn: &mut PgConnection,
    id: BuildId,
    failure: &StoredFailure,
) -> Result<Option<BuildState>, Error> {
    let before: Option<String> =
        sqlx::query_scalar("select state from builds where id = $1 for update")
            .bind(id.uuid())
            .fetch_optional(&mut *conn)
            .await?;
    let Some(state) = before.map(BuildState::try_from).transpose()? else { return Ok(None) };
    match state {
        BuildState::Queued => {
            fail(conn, id, failure, None).await?;
        }
        BuildState::Building => {
            sqlx::query("update builds set cancel_requested = true where id = $1")
                .bind(id.uuid())
                .execute(conn)
                .await?;
        }
        _ => {}
    }
    Ok(Some(state))
}

/// A function that never was ready shows how its newest build ended; the last cell of a base run ends the run.
async fn ended(conn: &mut PgConnection, id: BuildId) -> Result<(), Error> {
    sqlx::query(
        "update functions f set build_status = b.state, build_logs_s3_key = b.log_key
         from builds b where b.id = $1 and f.id = b.function_id and f.current_build is null",
    )
    .bind(id.uuid())
    .execute(&mut *conn)
    .await?;
    bases::cell_ended(conn, id).await
}

fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
