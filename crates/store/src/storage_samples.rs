//! How much the registry holds, a row a day.

use chrono::NaiveDate;
use sqlx::PgPool;

use crate::Error;

/// Keeps how many bytes the registry holds today (UTC).
pub async fn record(pool: &PgPool, bytes: i64) -> Result<(), Error> {
    sqlx::query(
        "insert into storage_samples (day, bytes) values ((now() at time zone 'utc')::date, $1)
         on conflict (day) do update set bytes = excluded.bytes",
    )
    .bind(bytes)
    .execute(pool)
    .await?;
    Ok(())
}

/// Of the last `days` days, oldest first.
pub async fn list(pool: &PgPool, days: i32) -> Result<Vec<(NaiveDate, i64)>, Error> {
    Ok(sqlx::query_as(
        "select day, bytes from storage_samples where day > (now() at time zone 'utc')::date - $1::integer
         order by day",
    )
    .bind(days)
    .fetch_all(pool)
    .await?)
}
