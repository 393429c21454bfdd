//! Recoveries from the fallback registry that somebody tried out.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;

use crate::Error;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Drill {
    pub at: DateTime<Utc>,
    /// The registry.
    pub fallback: String,
    /// Every image that was tried works.
    pub recovered: bool,
    pub duration_ms: i64,
    /// What became of each.
    pub images: Value,
}

/// Keeps how one went that has just ended.
pub async fn record(
    pool: &PgPool,
    fallback: &str,
    recovered: bool,
    duration_ms: u64,
    images: &Value,
) -> Result<(), Error> {
    sqlx::query(
        "insert into mirror_drills (fallback, recovered, duration_ms, images) values ($1, $2, $3, $4)",
    )
    .bind(fallback)
    .bind(recovered)
    .bind(i64::try_from(duration_ms).unwrap_or(i64::MAX))
    .bind(images)
    .execute(pool)
    .await?;
    Ok(())
}

pub async fn newest(pool: &PgPool) -> Result<Option<Drill>, Error> {
    Ok(sqlx::query_as(
        "select at, fallback, recovered, duration_ms, images from mirror_drills order by id desc limit 1",
    )
    .fetch_optional(pool)
    .await?)
}
