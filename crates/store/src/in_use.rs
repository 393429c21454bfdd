//! What images in staging and objects are still of use, by the record.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};

use crate::Error;

/// Whether a function, or a base image where there is none, has a build that has not ended: its images in staging
/// are in use, those without a record as well.
pub async fn in_flight(pool: &PgPool, function: Option<i64>) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "select exists (select 1 from builds where function_id is not distinct from $1
             and state in ('queued', 'building', 'scanning', 'publishing'))",
    )
    .bind(function)
    .fetch_one(pool)
    .await?)
}

/// When each of these digests was last left in staging or ended, by the builds' record. None: no build has it.
pub async fn last_used(
    pool: &PgPool,
    digests: &[String],
) -> Result<HashMap<String, DateTime<Utc>>, Error> {
    let rows: Vec<(String, DateTime<Utc>)> = sqlx::query_as(
        "select digest, max(greatest(updated_at, built_at, ended_at)) from builds where digest = any($1) group by digest",
    )
    .bind(digests)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().collect())
}

/// The use of a dependency image.
#[derive(Debug, Clone, FromRow)]
pub struct DependencyUse {
    pub last_used_at: DateTime<Utc>,
    /// A live function runs an image on it, or a build that has not ended has it.
    pub in_use: bool,
}

/// By digest, of those dependency images that builds stand on.
pub async fn dependencies(pool: &PgPool) -> Result<HashMap<String, DependencyUse>, Error> {
    #[derive(FromRow)]
    struct Row {
        digest: String,
        #[sqlx(flatten)]
        used: DependencyUse,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select split_part(dependency_image, '@', 2) as digest, max(builds.updated_at) as last_used_at,
             bool_or(builds.state in ('queued', 'building', 'scanning', 'publishing')
                 or exists (select 1 from functions f where f.current_build = builds.id and f.deleted_at is null))
                 as in_use
         from builds where dependency_image is not null group by 1",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.digest, row.used)).collect())
}

/// Notes what is in a repository, forgets what no longer is, and says when each was first seen.
pub async fn seen(
    pool: &PgPool,
    repository: &str,
    digests: &[String],
) -> Result<HashMap<String, DateTime<Utc>>, Error> {
    sqlx::query("delete from staging_seen where repository = $1 and not digest = any($2)")
        .bind(repository)
        .bind(digests)
        .execute(pool)
        .await?;
    sqlx::query(
        "insert into staging_seen (repository, digest) select $1, unnest($2::text[]) on conflict do nothing",
    )
    .bind(repository)
    .bind(digests)
    .execute(pool)
    .await?;
    let rows: Vec<(String, DateTime<Utc>)> =
        sqlx::query_as("select digest, first_seen_at from staging_seen where repository = $1")
            .bind(repository)
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().collect())
}

/// Of these builds, those whose objects are still of use: of a live function's current version, or not ended.
pub async fn builds_in_use(pool: &PgPool, ids: &[uuid::Uuid]) -> Result<Vec<uuid::Uuid>, Error> {
    Ok(sqlx::query_scalar(
        "select id from builds where id = any($1) and (
             state in ('queued', 'building', 'scanning', 'publishing')
             or exists (select 1 from functions f where f.current_build = builds.id and f.deleted_at is null))",
    )
    .bind(ids)
    .fetch_all(pool)
    .await?)
}

/// Of these tasks, those that have not ended.
pub async fn tasks_in_use(pool: &PgPool, ids: &[uuid::Uuid]) -> Result<Vec<uuid::Uuid>, Error> {
    Ok(sqlx::query_scalar(
        "select id from tasks where id = any($1) and state in ('queued', 'running')",
    )
    .bind(ids)
    .fetch_all(pool)
    .await?)
}

/// Of these keys, those that a task which has not ended was given as its inputs.
pub async fn inputs_in_use(pool: &PgPool, keys: &[&str]) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(
        "select distinct inputs_s3_key from tasks
         where inputs_s3_key = any($1) and state in ('queued', 'running')",
    )
    .bind(keys)
    .fetch_all(pool)
    .await?)
}
