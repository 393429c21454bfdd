//! Deliveries of webhooks: one row a message and webhook, tried from here until it is delivered or given up.
//!
//! A try is claimed by a lease and counted; what became of it is written only while it is the newest. A claim that was
//! never answered for (its process died) is another's once the lease is over.

mod claim;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

pub use claim::{Claim, Claimed, claim};

use crate::{Error, webhooks};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    Pending,
    Delivered,
    Dead,
}

impl DeliveryState {
    pub const ALL: &[Self] = &[Self::Pending, Self::Delivered, Self::Dead];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == text)
    }
}

impl TryFrom<String> for DeliveryState {
    type Error = Error;

    fn try_from(value: String) -> Result<Self, Error> {
        Self::parse(&value).ok_or(Error::Unknown { column: "webhook_deliveries.state", value })
    }
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Delivery {
    pub id: Uuid,
    pub webhook_id: Uuid,
    pub event_id: String,
    pub event_type: String,
    #[sqlx(try_from = "String")]
    pub state: DeliveryState,
    /// Tries so far.
    pub attempt: i32,
    pub round: i32,
    pub give_up_at: DateTime<Utc>,
    pub next_attempt_at: DateTime<Utc>,
    /// What the receiver answered to the last try.
    pub status: Option<i32>,
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str = "id, webhook_id, event_id, event_type, state, attempt, round, give_up_at, next_attempt_at, \
                       status, error, created_at, ended_at";

/// One try, as it went.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Attempt {
    pub attempt: i32,
    pub began_at: DateTime<Utc>,
    pub duration_ms: i64,
    pub status: Option<i32>,
    pub error: Option<String>,
}

/// A message to deliver.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    pub event_id: String,
    pub event_type: String,
    pub body: String,
    /// Tried for so long.
    pub lasts: Duration,
}

/// Keeps a message for each of these webhooks, once. The ids of what is new.
pub async fn insert(
    conn: &mut PgConnection,
    webhooks: &[Uuid],
    new: &NewDelivery,
) -> Result<Vec<Uuid>, Error> {
    let ids: Vec<Uuid> = webhooks.iter().map(|_| Uuid::now_v7()).collect();
    // The join: one that was removed meanwhile is nobody to tell.
    Ok(sqlx::query_scalar(
        "insert into webhook_deliveries (id, webhook_id, event_id, event_type, body, give_up_at)
         select given.id, w.id, $3, $4, $5, now() + make_interval(secs => $6)
         from unnest($1::uuid[], $2::uuid[]) as given (id, webhook_id) join webhooks w on w.id = given.webhook_id
         on conflict (webhook_id, event_id) do nothing returning id",
    )
    .bind(ids)
    .bind(webhooks)
    .bind(&new.event_id)
    .bind(&new.event_type)
    .bind(&new.body)
    .bind(new.lasts.as_secs_f64())
    .fetch_all(conn)
    .await?)
}

/// What a try means for its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    Retry {
        at: DateTime<Utc>,
    },
    /// Given up; with a dead letter, or without.
    Dead {
        letter: bool,
    },
    /// The receiver wants no more, of anything.
    Gone,
}

/// Writes down how a try went. False: it is not the newest any more, and nothing is changed.
pub async fn record(
    pool: &PgPool,
    id: Uuid,
    attempt: &Attempt,
    verdict: &Verdict,
) -> Result<bool, Error> {
    let (state, next, letter) = match verdict {
        Verdict::Delivered => (DeliveryState::Delivered, None, false),
        Verdict::Retry { at } => (DeliveryState::Pending, Some(*at), false),
        Verdict::Dead { letter } => (DeliveryState::Dead, None, *letter),
        Verdict::Gone => (DeliveryState::Dead, None, false),
    };
    let mut transaction = pool.begin().await?;
    note_failing(&mut transaction, id, verdict).await?;
    let webhook: Option<Uuid> = sqlx::query_scalar(
        "with ended as (
             update webhook_deliveries
             set state = $3, status = $4, error = $5, leased_until = null, letter_due = $6,
                 next_attempt_at = coalesce($7, next_attempt_at),
                 ended_at = case when $3 = 'pending' then null else now() end
             where id = $1 and attempt = $2 and state = 'pending'
             returning id, webhook_id
         ), noted as (
             insert into webhook_attempts (delivery_id, attempt, began_at, duration_ms, status, error)
             select id, $2, $8::timestamptz, $9::bigint, $4, $5 from ended on conflict do nothing
         )
         select webhook_id from ended",
    )
    .bind(id)
    .bind(attempt.attempt)
    .bind(state.as_str())
    .bind(attempt.status)
    .bind(attempt.error.as_deref())
    .bind(letter)
    .bind(next)
    .bind(attempt.began_at)
    .bind(attempt.duration_ms)
    .fetch_optional(&mut *transaction)
    .await?;
    // Dropping the transaction takes back what was noted of the webhook.
    let Some(webhook) = webhook else { return Ok(false) };
    if *verdict == Verdict::Gone {
        webhooks::disable(&mut transaction, webhook, "the receiver answered 410 Gone").await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// Notes whether the receiver takes messages. Most tries change nothing of that, and lock nothing.
///
/// Before the delivery is touched: what disables a webhook holds it, and then gives up its deliveries.
async fn note_failing(
    conn: &mut PgConnection,
    delivery: Uuid,
    verdict: &Verdict,
) -> Result<(), Error> {
    let (failing_since, which) = match verdict {
        Verdict::Delivered => ("null", "failing_since is not null"),
        Verdict::Retry { .. } | Verdict::Dead { letter: true } => {
            ("now()", "failing_since is null")
        }
        // That a test failed is no news of the receiver: it may not be there yet.
        Verdict::Dead { letter: false } => return Ok(()),
        Verdict::Gone => ("failing_since", "true"),
    };
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "update webhooks set failing_since = {failing_since}
         where id = (select webhook_id from webhook_deliveries where id = $1) and {which}"
    )))
    .bind(delivery)
    .execute(conn)
    .await?;
    Ok(())
}

/// One that was given up and is not yet with the dead letters.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Letter {
    pub id: Uuid,
    pub round: i32,
    pub attempt: i32,
    pub event_id: String,
    pub error: Option<String>,
}

/// Locked against the other replicas as long as the transaction lives.
pub async fn letters_due(conn: &mut PgConnection, limit: i64) -> Result<Vec<Letter>, Error> {
    Ok(sqlx::query_as(
        "select id, round, attempt, event_id, error from webhook_deliveries
         where letter_due order by id limit $1 for update skip locked",
    )
    .bind(limit)
    .fetch_all(conn)
    .await?)
}

pub async fn letters_kept(conn: &mut PgConnection, ids: &[Uuid]) -> Result<(), Error> {
    sqlx::query("update webhook_deliveries set letter_due = false where id = any($1)")
        .bind(ids)
        .execute(conn)
        .await?;
    Ok(())
}

/// Has it tried again, at once and for `lasts` from now; what becomes of a try that is under way does not count. With a round, only if that one was given up: what a dead letter
/// asks for. None: not there, or overtaken.
pub async fn resend(
    conn: &mut PgConnection,
    id: Uuid,
    round: Option<i32>,
    lasts: Duration,
) -> Result<Option<Delivery>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "update webhook_deliveries
         set state = 'pending', round = round + 1, round_attempt = 0, next_attempt_at = now(),
             give_up_at = now() + make_interval(secs => $3), ended_at = null, letter_due = false,
             attempt = attempt + (leased_until is not null)::int, leased_until = null
         where id = $1 and ($2::int is null or (round = $2 and state = 'dead'))
         returning {COLUMNS}"
    )))
    .bind(id)
    .bind(round)
    .bind(lasts.as_secs_f64())
    .fetch_optional(conn)
    .await?)
}

pub async fn get(pool: &PgPool, id: Uuid) -> Result<Option<Delivery>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from webhook_deliveries where id = $1"
    )))
    .bind(id)
    .fetch_optional(pool)
    .await?)
}

/// Those of a webhook, newest first, from the one before `before` on.
pub async fn list(
    pool: &PgPool,
    webhook: Uuid,
    state: Option<DeliveryState>,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<Delivery>, Error> {
    // As text of the query: only so does an index of some states serve it.
    let of_state =
        state.map(|state| format!("and state = '{}'", state.as_str())).unwrap_or_default();
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from webhook_deliveries
         where webhook_id = $1 and id < $2 {of_state} order by id desc limit $3"
    )))
    .bind(webhook)
    .bind(before.unwrap_or(Uuid::max()))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}

/// How its tries went, oldest first; one that is under way, or whose process died, is not among them.
pub async fn attempts(pool: &PgPool, id: Uuid) -> Result<Vec<Attempt>, Error> {
    Ok(sqlx::query_as(
        "select attempt, began_at, duration_ms, status, error from webhook_attempts
         where delivery_id = $1 order by attempt desc limit 100",
    )
    .bind(id)
    .fetch_all(pool)
    .await
    .map(|mut attempts: Vec<Attempt>| {
        attempts.reverse();
        attempts
    })?)
}

/// The message, as it is sent.
pub async fn body(pool: &PgPool, id: Uuid) -> Result<Option<String>, Error> {
    Ok(sqlx::query_scalar("select body from webhook_deliveries where id = $1")
        .bind(id)
        .fetch_optional(pool)
        .await?)
}

/// How many wait, and for how long the one that is longest due has been due.
pub async fn waiting(pool: &PgPool) -> Result<(i64, Duration), Error> {
    let (number, seconds): (i64, f64) = sqlx::query_as(
        "select count(*), coalesce(extract(epoch from now() - min(next_attempt_at)), 0)::float8
         from webhook_deliveries where state = 'pending'",
    )
    .fetch_one(pool)
    .await?;
    Ok((number, Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()))
}
