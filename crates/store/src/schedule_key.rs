//! The names of a schedule's ticks: known to all replicas, and to nobody who has no part in this database.

use sqlx::PgPool;

use crate::Error;

/// `mirror-2025-10-04` becomes `mirror-2025-10-04-` and sixteen digits, always the same ones.
pub async fn seal(pool: &PgPool, tick: &str) -> Result<String, Error> {
    Ok(sqlx::query_scalar(
        "select $1 || '-' || left(encode(sha256(convert_to(key::text || '/' || $1, 'UTF8')), 'hex'), 16)
         from schedule_key",
    )
    .bind(tick)
    .fetch_one(pool)
    .await?)
}
