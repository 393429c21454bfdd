//! Log-ins to the console. What a browser holds is nowhere but with it: here is its hash.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::Error;

/// A log-in that has not expired.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Session {
    /// Of the token that opened it.
    pub token_hash: Vec<u8>,
    pub expires_at: DateTime<Utc>,
}

/// Opens one, for so long. When it expires. Those that have expired go.
pub async fn open(
    conn: &mut PgConnection,
    id_hash: &[u8; 32],
    token_hash: &[u8; 32],
    owner: &str,
    lasts: Duration,
) -> Result<DateTime<Utc>, Error> {
    sqlx::query("delete from sessions where expires_at < now()").execute(&mut *conn).await?;
    Ok(sqlx::query_scalar(
        "insert into sessions (id_hash, token_hash, owner, expires_at)
         values ($1, $2, $3, now() + make_interval(secs => $4)) returning expires_at",
    )
    .bind(id_hash.as_slice())
    .bind(token_hash.as_slice())
    .bind(owner)
    .bind(lasts.as_secs_f64())
    .fetch_one(conn)
    .await?)
}

pub async fn get(pool: &PgPool, id_hash: &[u8; 32]) -> Result<Option<Session>, Error> {
    Ok(sqlx::query_as(
        "select token_hash, expires_at from sessions where id_hash = $1 and expires_at > now()",
    )
    .bind(id_hash.as_slice())
    .fetch_optional(pool)
    .await?)
}

/// Ends one. False: it was not there.
pub async fn close(conn: &mut PgConnection, id_hash: &[u8; 32]) -> Result<bool, Error> {
    let done = sqlx::query("delete from sessions where id_hash = $1")
        .bind(id_hash.as_slice())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}
