//! Messages whose effect is in this database, by consumer.

use mecapy_proto::BuildId;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use crate::Error;
use crate::outbox::{self, Message};
use crate::stages::{MAX_STAGES, Stage};

/// Whether the message was handled: a cheap look before the work.
pub async fn contains(pool: &PgPool, consumer: &str, message_id: &str) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "select exists (select 1 from inbox where consumer = $1 and message_id = $2)",
    )
    .bind(consumer)
    .bind(message_id)
    .fetch_one(pool)
    .await?)
}

/// The statement, and what else it does where the message was not handled before.
macro_rules! handled {
    ($more:literal) => {
        concat!(
            "with handled as (
                 insert into inbox (consumer, message_id) values ($1, $2) on conflict do nothing returning 1
             ), sent as (
                 insert into outbox (service, subject, message_id, payload, traceparent)
                 select $3, * from unnest($4::text[], $5::text[], $6::bytea[], $7::text[])
                 where exists (select 1 from handled)
                 returning id
             )",
            $more,
            "select exists (select 1 from handled), array(select id from sent order by id)"
        )
    };
}

/// Marks the message handled and keeps what it sends, as the last statement of its effect's transaction.
/// The ids of the outbox rows, in order; none: it was handled already, and the transaction must end without effect.
///
/// One statement for both tables: the round trips are what an event costs.
pub async fn record(
    conn: &mut PgConnection,
    consumer: &str,
    message_id: &str,
    service: &str,
    messages: &[Message],
) -> Result<Option<Vec<i64>>, Error> {
    let columns = outbox::Columns::of(messages);
    let (is_new, ids): (bool, Vec<i64>) = sqlx::query_as(handled!(""))
        .bind(consumer)
        .bind(message_id)
        .bind(service)
        .bind(columns.subjects)
        .bind(columns.message_ids)
        .bind(columns.payloads)
        .bind(columns.traceparents)
        .fetch_one(conn)
        .await?;
    Ok(is_new.then_some(ids))
}

/// As [`record`], and notes with it how the build went that the message is about.
pub async fn record_stage(
    conn: &mut PgConnection,
    consumer: &str,
    message_id: &str,
    service: &str,
    messages: &[Message],
    build: BuildId,
    stage: &Stage,
) -> Result<Option<Vec<i64>>, Error> {
    let columns = outbox::Columns::of(messages);
    let (is_new, ids): (bool, Vec<i64>) = sqlx::query_as(handled!(
        ", noted as (
             update builds set stages = stages || $9
             where id = $8 and jsonb_array_length(stages) < $10 and exists (select 1 from handled)
         )"
    ))
    .bind(consumer)
    .bind(message_id)
    .bind(service)
    .bind(columns.subjects)
    .bind(columns.message_ids)
    .bind(columns.payloads)
    .bind(columns.traceparents)
    .bind(build.uuid())
    .bind(Json(stage))
    .bind(MAX_STAGES)
    .fetch_one(conn)
    .await?;
    Ok(is_new.then_some(ids))
}
