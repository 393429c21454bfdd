//! What newer databases of advisories have against images that run.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::Error;

/// A function whose current image is hit.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Hit {
    pub function_id: i64,
    pub owner: String,
    pub name: String,
    pub build_id: Uuid,
    pub version: i32,
    pub revoked_at: DateTime<Utc>,
    /// Workers run it no more.
    pub refused: bool,
    pub critical: i32,
    pub high: i32,
    pub findings: Value,
}

/// Live functions that are hit, the newest first.
pub async fn live(pool: &PgPool, limit: u32) -> Result<Vec<Hit>, Error> {
    Ok(sqlx::query_as(
        "select f.id as function_id, f.owner, f.name, b.id as build_id, b.version, s.revoked_at, s.refused,
             s.critical, s.high, s.findings
         from scans s join builds b on b.id = s.build_id join functions f on f.current_build = b.id
         where s.revoked_at is not null and f.deleted_at is null
         order by s.revoked_at desc limit $1",
    )
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}

/// How live images were matched with a new database.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Rematch {
    pub database_version: String,
    /// The newest advisory in it.
    pub newest: DateTime<Utc>,
    pub images: i32,
    pub unindexed: i32,
    pub revoked: i32,
    pub restored: i32,
    pub duration_ms: i64,
    pub ended_at: DateTime<Utc>,
}

/// The newest first.
pub async fn rematches(pool: &PgPool, limit: u32) -> Result<Vec<Rematch>, Error> {
    Ok(sqlx::query_as(
        "select database_version, newest, images, unindexed, revoked, restored, duration_ms, ended_at
         from rematches order by ended_at desc limit $1",
    )
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}

/// What the newest scan was made with: engine, its database, whether that is the starter set, and when.
pub async fn newest_scan(
    pool: &PgPool,
) -> Result<Option<(String, String, bool, DateTime<Utc>)>, Error> {
    Ok(sqlx::query_as(
        "select s.engine, s.database_version, s.database_partial, s.scanned_at
         from builds b join scans s on s.build_id = b.id
         where b.function_id is not null order by b.requested_at desc limit 1",
    )
    .fetch_optional(pool)
    .await?)
}
