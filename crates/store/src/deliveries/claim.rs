//! Whose turn it is to be tried.

use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_service::Secret;
use sqlx::PgPool;
use uuid::Uuid;

use crate::Error;

/// A try that is ours to make.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub id: Uuid,
    pub webhook_id: Uuid,
    pub url: String,
    pub body: String,
    pub event_type: String,
    /// The one to sign with, and where it is still valid, the one before.
    pub secrets: Vec<Secret>,
    pub attempt: i32,
    /// Of this day.
    pub round_attempt: i32,
    pub give_up_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    pub most: u32,
    /// Tries that the webhooks of an owner may have at once in this process, and one of them; and how many each has.
    pub per_owner: u32,
    pub per_webhook: u32,
    pub under_way: &'a [(Uuid, u32)],
    pub lease: Duration,
}

/// Takes what is due, but of one webhook and of one owner only as much as they may have at once: receivers that are slow
/// hold up nobody else. Whoever has least under way is first, then what is due longest. Of each webhook only so much is
/// looked at, however much waits for it.
pub async fn claim(pool: &PgPool, claim: Claim<'_>) -> Result<Vec<Claimed>, Error> {
    let (busy, numbers): (Vec<Uuid>, Vec<i32>) = claim
        .under_way
        .iter()
        .map(|(id, number)| (*id, i32::try_from(*number).unwrap_or(i32::MAX)))
        .unzip();
    type Row =
        (Uuid, Uuid, String, String, String, String, Option<String>, i32, i32, DateTime<Utc>);
    let rows: Vec<Row> = sqlx::query_as(
        "with recursive waiting as (
             (select webhook_id from webhook_deliveries where state = 'pending' order by webhook_id limit 1)
             union all
             select (select d.webhook_id from webhook_deliveries d
                     where d.state = 'pending' and d.webhook_id > waiting.webhook_id order by d.webhook_id limit 1)
             from waiting where waiting.webhook_id is not null
         ), busy as (
             select given.webhook_id, given.number, w.owner
             from unnest($1::uuid[], $2::int[]) as given (webhook_id, number) join webhooks w on w.id = given.webhook_id
         ), due as (
             select head.id, head.next_attempt_at, w.owner, coalesce(busy.number, 0)
                 + row_number() over (partition by w.id order by head.next_attempt_at) as place
             from waiting join webhooks w on w.id = waiting.webhook_id
             left join busy on busy.webhook_id = w.id
             cross join lateral (
                 select d.id, d.next_attempt_at from webhook_deliveries d
                 where d.webhook_id = w.id and d.state = 'pending' and d.next_attempt_at <= now()
                     and (d.leased_until is null or d.leased_until < now())
                 order by d.next_attempt_at limit $3::bigint
             ) head
         ), placed as (
             select due.id, due.next_attempt_at,
                 coalesce((select sum(busy.number) from busy where busy.owner = due.owner), 0)
                     + row_number() over (partition by due.owner order by due.place, due.next_attempt_at) as place
             from due where due.place <= $3::bigint
         ), taken as (
             select d.id from placed join webhook_deliveries d on d.id = placed.id
             where placed.place <= $6::bigint and d.state = 'pending' and d.next_attempt_at <= now()
                 and (d.leased_until is null or d.leased_until < now())
             order by placed.place, placed.next_attempt_at limit $4::bigint
             for update of d skip locked
         )
         update webhook_deliveries d
         set leased_until = now() + make_interval(secs => $5), attempt = d.attempt + 1,
             round_attempt = d.round_attempt + 1
         from taken, webhooks w
         where d.id = taken.id and w.id = d.webhook_id and d.state = 'pending' and d.next_attempt_at <= now()
             and (d.leased_until is null or d.leased_until < now())
         returning d.id, d.webhook_id, w.url, d.body, d.event_type, w.secret,
             case when w.previous_until > now() then w.previous_secret end, d.attempt, d.round_attempt, d.give_up_at",
    )
    .bind(busy)
    .bind(numbers)
    .bind(i64::from(claim.per_webhook))
    .bind(i64::from(claim.most))
    .bind(claim.lease.as_secs_f64())
    .bind(i64::from(claim.per_owner))
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(
            |(
                id,
                webhook_id,
                url,
                body,
                event_type,
                secret,
                previous,
                attempt,
                round_attempt,
                give_up_at,
            )| Claimed {
                id,
                webhook_id,
                url,
                body,
                event_type,
                secrets: std::iter::once(secret).chain(previous).map(Secret::new).collect(),
                attempt,
                round_attempt,
                give_up_at,
            },
        )
        .collect())
}
