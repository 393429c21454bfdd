//! Messages that must go out, because the transaction that wrote them was committed.

use std::time::Duration;

use mecapy_proto::Event;
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

impl Message {
    pub fn of<E: Event>(event: &E) -> Self {
        Self {
            subject: E::SUBJECT.to_owned(),
            message_id: event.message_id(),
            payload: event.encode_to_vec(),
            traceparent: None,
        }
    }
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

/// Messages by column, for statements that write many rows.
pub(crate) struct Columns<'m> {
    pub subjects: Vec<&'m str>,
    pub message_ids: Vec<&'m str>,
    pub payloads: Vec<&'m [u8]>,
    pub traceparents: Vec<Option<&'m str>>,
}

impl<'m> Columns<'m> {
    pub fn of(messages: &'m [Message]) -> Self {
        Self {
            subjects: messages.iter().map(|message| message.subject.as_str()).collect(),
            message_ids: messages.iter().map(|message| message.message_id.as_str()).collect(),
            payloads: messages.iter().map(|message| message.payload.as_slice()).collect(),
            traceparents: messages.iter().map(|message| message.traceparent.as_deref()).collect(),
        }
    }
}

/// Keeps messages as part of a transaction that no message caused. Their row ids, in order.
pub async fn insert(
    conn: &mut PgConnection,
    service: &str,
    messages: &[Message],
) -> Result<Vec<i64>, Error> {
    let columns = Columns::of(messages);
    let mut ids: Vec<i64> = sqlx::query_scalar(
        "insert into outbox (service, subject, message_id, payload, traceparent)
         select $1, * from unnest($2::text[], $3::text[], $4::bytea[], $5::text[]) returning id",
    )
    .bind(service)
    .bind(columns.subjects)
    .bind(columns.message_ids)
    .bind(columns.payloads)
    .bind(columns.traceparents)
    .fetch_all(conn)
    .await?;
    ids.sort_unstable();
    Ok(ids)
}

/// Messages of a service that should have gone out by now, but for subjects that are blocked; locked against the
/// other replicas as long as the transaction lives.
pub async fn overdue(
    conn: &mut PgConnection,
    service: &str,
    older_than: Duration,
    blocked: &[String],
    limit: i64,
) -> Result<Vec<Row>, Error> {
    Ok(sqlx::query_as(
        "select id, subject, message_id, payload, traceparent from outbox
         where service = $1 and created_at < now() - make_interval(secs => $2) and not subject = any($4)
         order by id limit $3 for update skip locked",
    )
    .bind(service)
    .bind(older_than.as_secs_f64())
    .bind(limit)
    .bind(blocked)
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
    Ok(sqlx::query_scalar("select count(*) from outbox where service = $1")
        .bind(service)
        .fetch_one(pool)
        .await?)
}
