//! Messages that must go out, because the transaction that wrote them was committed.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use crate::Error;

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    /// The same for every copy of it.
    pub message_id: String,
    /// Protobuf.
    pub payload: Vec<u8>,
    /// The W3C trace context of what caused it.
    pub traceparent: Option<String>,
}

/// A message as it is kept.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Row {
    pub id: i64,
    pub subject: String,
    pub message_id: String,
    pub payload: Vec<u8>,
    pub traceparent: Option<String>,
}

/// Keeps messages as part of a transaction. Their row ids, in order.
pub async fn insert(conn: &mut PgConnection, service: &str, messages: &[Message]) -> Result<Vec<i64>, Error> {
    let mut ids = Vec::with_capacity(messages.len());
    for message in messages {
        ids.push(
            sqlx::query_scalar(
                "insert into outbox (service, subject, message_id, payload, traceparent)
                 values ($1, $2, $3, $4, $5) returning id",
            )
            .bind(service)
            .bind(&message.subject)
            .bind(&message.message_id)
            .bind(&message.payload)
            .bind(&message.traceparent)
            .fetch_one(&mut *conn)
            .await?,
        );
    }
    Ok(ids)
}

/// Messages of a service that should have gone out by now, locked against the other replicas
/// as long as the transaction lives.
pub async fn overdue(
    conn: &mut PgConnection,
    service: &str,
    older_than: Duration,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    Ok(sqlx::query_as(
        "select id, subject, message_id, payload, traceparent from outbox
         where service = $1 and created_at < now() - make_interval(secs => $2)
         order by id limit $3 for update skip locked",
    )
    .bind(service)
    .bind(older_than.as_secs_f64())
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

/// Forgets messages that the stream has.
pub async fn delete(conn: &mut PgConnection, ids: &[i64]) -> Result<(), Error> {
    sqlx::query("delete from outbox where id = any($1)").bind(ids).execute(conn).await?;
    Ok(())
}

/// How many messages wait.
pub async fn waiting(pool: &PgPool, service: &str) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("select count(*) from outbox where service = $1").bind(service).fetch_one(pool).await?)
}
