//! Messages whose effect is in this database, by consumer.

use sqlx::{PgConnection, PgPool};

use crate::Error;

/// Whether the message was handled: a cheap look before the work.
pub async fn contains(pool: &PgPool, consumer: &str, message_id: &str) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("select exists (select 1 from inbox where consumer = $1 and message_id = $2)")
        .bind(consumer)
        .bind(message_id)
        .fetch_one(pool)
        .await?)
}

/// Marks the message handled, as part of its effect's transaction. False: it was already;
/// the transaction must end without effect.
pub async fn insert(conn: &mut PgConnection, consumer: &str, message_id: &str) -> Result<bool, Error> {
    let done = sqlx::query("insert into inbox (consumer, message_id) values ($1, $2) on conflict do nothing")
        .bind(consumer)
        .bind(message_id)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}
