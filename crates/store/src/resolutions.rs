//! What requirements were resolved to a short while ago, for all replicas of the builder.

use std::time::Duration;

use sqlx::PgPool;

use crate::Error;

/// The lock, and how old it is. None: there is none that is younger than `max_age`.
pub async fn get(
    pool: &PgPool,
    key: &str,
    max_age: Duration,
) -> Result<Option<(String, Duration)>, Error> {
    let row: Option<(String, f64)> = sqlx::query_as(
        "select lock, extract(epoch from now() - resolved_at)::float8 from resolutions
         where key = $1 and resolved_at > now() - make_interval(secs => $2)",
    )
    .bind(key)
    .bind(max_age.as_secs_f64())
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|(lock, age)| (lock, Duration::from_secs_f64(age.max(0.0)))))
}

/// Keeps a lock, and forgets those of days ago.
pub async fn put(pool: &PgPool, key: &str, lock: &str) -> Result<(), Error> {
    sqlx::query("delete from resolutions where resolved_at < now() - interval '2 days'")
        .execute(pool)
        .await?;
    sqlx::query(
        "insert into resolutions (key, lock) values ($1, $2)
         on conflict (key) do update set lock = excluded.lock, resolved_at = now()",
    )
    .bind(key)
    .bind(lock)
    .execute(pool)
    .await?;
    Ok(())
}
