//! Runs that stand still: their messages are lost, or dead letters.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::Error;

/// An image of a mirror run that has no outcome yet.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct OpenImage {
    pub repository: String,
    pub digest: String,
    pub tags: Vec<String>,
}

/// A run, and since when nothing may have happened to it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct OpenRun {
    pub id: String,
    pub since: DateTime<Utc>,
}

/// Mirror runs that have not ended in this time, nor since their images were sent again.
pub async fn mirrors(pool: &PgPool, after: Duration) -> Result<Vec<OpenRun>, Error> {
    Ok(sqlx::query_as(
        "select id, coalesce(resent_at, requested_at) as since from mirror_runs
         where state = 'running' and coalesce(resent_at, requested_at) < now() - make_interval(secs => $1)
         order by since limit 100",
    )
    .bind(after.as_secs_f64())
    .fetch_all(pool)
    .await?)
}

/// The open images of a run, noted as sent again now.
pub async fn resend_mirror(conn: &mut PgConnection, run: &str) -> Result<Vec<OpenImage>, Error> {
    sqlx::query("update mirror_runs set resent_at = now() where id = $1 and state = 'running'")
        .bind(run)
        .execute(&mut *conn)
        .await?;
    Ok(sqlx::query_as(
        "select repository, digest, tags from mirror_images where run_id = $1 and outcome is null",
    )
    .bind(run)
    .fetch_all(conn)
    .await?)
}

/// Runs of the janitor that have not ended in this time.
pub async fn cleanups(pool: &PgPool, after: Duration) -> Result<Vec<OpenRun>, Error> {
    Ok(sqlx::query_as(
        "select id, requested_at as since from cleanup_runs
         where state in ('planning', 'applying') and requested_at < now() - make_interval(secs => $1)
         order by since limit 100",
    )
    .bind(after.as_secs_f64())
    .fetch_all(pool)
    .await?)
}
