//! Who works alone on something, over all replicas, for as long as it shows that it lives.
//!
//! Unlike a [`Turn`](crate::Turn) it holds no connection: for work that takes minutes, and many who wait for it.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

use crate::Error;

/// Takes the lease on `name` if it is free or its holder is dead, or renews one's own. False: another has it.
pub async fn take(pool: &PgPool, name: &str, holder: Uuid, lasts: Duration) -> Result<bool, Error> {
    let done = sqlx::query(
        "insert into leases (name, holder, until) values ($1, $2, now() + $3)
         on conflict (name) do update set holder = excluded.holder, until = excluded.until
             where leases.until < now() or leases.holder = excluded.holder",
    )
    .bind(name)
    .bind(holder)
    .bind(interval(lasts))
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether somebody has it who shows that he lives.
pub async fn is_held(pool: &PgPool, name: &str) -> Result<bool, Error> {
    let held = "select exists (select from leases where name = $1 and until >= now())";
    Ok(sqlx::query_scalar(held).bind(name).fetch_one(pool).await?)
}

/// Gives it back. It is no error when another has it meanwhile. Leases that nobody gave back go too.
pub async fn give_back(pool: &PgPool, name: &str, holder: Uuid) -> Result<(), Error> {
    sqlx::query(
        "delete from leases where (name = $1 and holder = $2) or until < now() - interval '1 day'",
    )
    .bind(name)
    .bind(holder)
    .execute(pool)
    .await?;
    Ok(())
}

fn interval(duration: Duration) -> PgInterval {
    let microseconds = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}
