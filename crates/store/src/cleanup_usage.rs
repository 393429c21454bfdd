//! What tasks, builds and functions need of the registry, as our own records have it.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use sqlx::PgPool;

use crate::Error;

/// When each image was last used: the last day a task ran on it, or when a build left it.
pub async fn last_used(pool: &PgPool) -> Result<Vec<(String, DateTime<Utc>)>, Error> {
    let used: Vec<(String, NaiveDate)> = sqlx::query_as(
        "select digest, max(day) from (
             select digest, max(day) as day from image_usage group by digest
             union all
             select digest, max((coalesce(ended_at, updated_at) at time zone 'utc')::date) from builds
             where digest is not null group by digest) u
         group by digest",
    )
    .fetch_all(pool)
    .await?;
    // A day counts to its end.
    let end = |day: NaiveDate| (day + chrono::Days::new(1)).and_time(NaiveTime::MIN).and_utc();
    Ok(used.into_iter().map(|(digest, day)| (digest, end(day))).collect())
}

/// A function, as the registry is concerned with it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct FunctionState {
    pub id: i64,
    pub is_live: bool,
    /// The image that it runs.
    pub current: Option<String>,
    /// A build of it is about to move tags.
    pub is_publishing: bool,
}

const FUNCTIONS: &str = "select f.id, f.deleted_at is null as is_live, b.digest as current,
        exists (select 1 from builds p where p.function_id = f.id and p.state = 'publishing') as is_publishing
    from functions f left join builds b on b.id = f.current_build";

pub async fn functions(pool: &PgPool) -> Result<Vec<FunctionState>, Error> {
    Ok(sqlx::query_as(FUNCTIONS).fetch_all(pool).await?)
}

pub async fn function(pool: &PgPool, id: i64) -> Result<Option<FunctionState>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!("{FUNCTIONS} where f.id = $1")))
        .bind(id)
        .fetch_optional(pool)
        .await?)
}

/// An image that queued and running tasks ask for, in whichever way tasks name images; empty: the function's own.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Asked {
    pub image: String,
    pub function_id: i64,
    pub owner: String,
    /// What the function runs, or ran when it was deleted.
    pub docker_image: Option<String>,
}

pub async fn asked_by_tasks(pool: &PgPool) -> Result<Vec<Asked>, Error> {
    Ok(sqlx::query_as(
        "select distinct t.image, t.function_id, f.owner, f.docker_image
         from tasks t join functions f on f.id = t.function_id where t.state in ('queued', 'running')",
    )
    .fetch_all(pool)
    .await?)
}

/// The same of tasks that have no row yet: function and image, as their messages have them.
pub async fn asked_by_messages(
    pool: &PgPool,
    messages: &[(i64, String)],
) -> Result<Vec<Asked>, Error> {
    let (functions, images): (Vec<i64>, Vec<&str>) =
        messages.iter().map(|(function, image)| (*function, image.as_str())).unzip();
    Ok(sqlx::query_as(
        "select distinct m.image, m.function_id, coalesce(f.owner, '') as owner, f.docker_image
         from unnest($1::bigint[], $2::text[]) as m (function_id, image)
         left join functions f on f.id = m.function_id",
    )
    .bind(functions)
    .bind(images)
    .fetch_all(pool)
    .await?)
}

/// Digests that builds in flight left.
pub async fn of_open_builds(pool: &PgPool) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(
        "select distinct digest from builds
         where state in ('queued', 'building', 'scanning', 'publishing') and digest is not null",
    )
    .fetch_all(pool)
    .await?)
}

/// `3.11-slim`: the base images of versions that run now or are being built.
pub async fn bases(pool: &PgPool) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(
        "select distinct v.python_version || '-' || v.base_variant
         from versions v join builds b on b.function_id = v.function_id and b.version = v.version
         join functions f on f.id = v.function_id
         where (f.deleted_at is null and f.current_build = b.id)
            or b.state in ('queued', 'building', 'scanning', 'publishing')",
    )
    .fetch_all(pool)
    .await?)
}

/// Digests of the base images on which what runs now was built, or is being built.
pub async fn base_digests(pool: &PgPool) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(
        "select distinct b.base_digest from builds b left join functions f on f.id = b.function_id
         where b.base_digest is not null and (
             (f.deleted_at is null and f.current_build = b.id)
             or b.state in ('queued', 'building', 'scanning', 'publishing'))",
    )
    .fetch_all(pool)
    .await?)
}

/// What was put back by hand since then: (repository, digest).
pub async fn put_back(pool: &PgPool, since: DateTime<Utc>) -> Result<Vec<(String, String)>, Error> {
    Ok(sqlx::query_as(
        "select distinct repository, digest from cleanup_items where state = 'undone' and updated_at > $1",
    )
    .bind(since)
    .fetch_all(pool)
    .await?)
}

/// What speaks against deleting an image, asked just before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Needs {
    pub task: bool,
    pub build: bool,
    pub current: bool,
    /// A task ran on it on the day given or since.
    pub used: bool,
    /// Somebody has put it back not long ago.
    pub put_back: bool,
}

/// `names` are the image's names as a task may give them: digest, tags, references; `function` is whose it is.
pub async fn needs(
    pool: &PgPool,
    digest: &str,
    names: &[String],
    function: Option<i64>,
    since: DateTime<Utc>,
) -> Result<Needs, Error> {
    Ok(sqlx::query_as(
        "select
             exists (select 1 from tasks t left join functions f on f.id = t.function_id
                 where t.state in ('queued', 'running') and (
                     position($1 in t.image) > 0
                     or (t.function_id = $3 and t.image = any($2))
                     or (t.image like '%/%' and t.image = any($2))
                     or (t.image = '' and position($1 in coalesce(f.docker_image, '')) > 0))) as task,
             exists (select 1 from builds where digest = $1
                 and state in ('queued', 'building', 'scanning', 'publishing')) as build,
             exists (select 1 from functions f join builds b on b.id = f.current_build
                 where b.digest = $1 and f.deleted_at is null) as current,
             exists (select 1 from image_usage where digest = $1
                 and day >= ($4 at time zone 'utc')::date) as used,
             exists (select 1 from cleanup_items where digest = $1 and state = 'undone'
                 and updated_at > now() - interval '30 days') as put_back",
    )
    .bind(digest)
    .bind(names)
    .bind(function)
    .bind(since)
    .fetch_one(pool)
    .await?)
}
