//! Webhooks: who is told of what, where, and signed with which secret.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_proto::{FunctionId, Owner};
use mecapy_service::Secret;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::Error;

/// What an owner can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Notice {
    Ready,
    Rejected,
    Failed,
    Revoked,
    TaskEnded,
}

impl Notice {
    pub const ALL: &[Self] =
        &[Self::Ready, Self::Rejected, Self::Failed, Self::Revoked, Self::TaskEnded];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Revoked => "revoked",
            Self::TaskEnded => "task_ended",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|notice| notice.as_str() == text)
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A webhook, without its secrets: only who signs reads those.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Webhook {
    pub id: Uuid,
    pub owner: String,
    /// None: all functions of the owner.
    pub function_id: Option<i64>,
    pub url: String,
    pub description: String,
    /// Names of [`Notice`]s.
    pub events: Vec<String>,
    pub previous_until: Option<DateTime<Utc>>,
    pub enabled: bool,
    pub disabled_reason: Option<String>,
    /// Since when no message was delivered, although some were tried.
    pub failing_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

const COLUMNS: &str = "id, owner, function_id, url, description, events, previous_until, enabled, disabled_reason, \
                       failing_since, created_at";

#[derive(Debug, Clone)]
pub struct NewWebhook {
    pub owner: String,
    pub function: Option<FunctionId>,
    pub url: String,
    pub description: String,
    pub events: Vec<Notice>,
    pub secret: Secret,
}

/// Makes a webhook. None: the owner has as many as `most` already.
pub async fn create(
    conn: &mut PgConnection,
    new: &NewWebhook,
    most: i64,
) -> Result<Option<Webhook>, Error> {
    let events: Vec<&str> = new.events.iter().map(|event| event.as_str()).collect();
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "insert into webhooks (id, owner, function_id, url, description, events, secret)
         select $1::uuid, $2::text, $3::bigint, $4::text, $5::text, $6::text[], $7::text where (select count(*) from webhooks where owner = $2) < $8::bigint
         returning {COLUMNS}"
    )))
    .bind(Uuid::now_v7())
    .bind(&new.owner)
    .bind(new.function.map(FunctionId::get))
    .bind(&new.url)
    .bind(&new.description)
    .bind(events)
    .bind(new.secret.expose())
    .bind(most)
    .fetch_optional(conn)
    .await?)
}

pub async fn get(pool: &PgPool, id: Uuid) -> Result<Option<Webhook>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!("select {COLUMNS} from webhooks where id = $1")))
        .bind(id)
        .fetch_optional(pool)
        .await?)
}

/// Those of an owner, or all, oldest first, from the one after `after` on.
pub async fn list(
    pool: &PgPool,
    owner: Option<&Owner>,
    function: Option<FunctionId>,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<Webhook>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {COLUMNS} from webhooks
         where ($1::text is null or owner = $1) and ($2::bigint is null or function_id = $2) and id > $3
         order by id limit $4"
    )))
    .bind(owner.map(Owner::as_str))
    .bind(function.map(FunctionId::get))
    .bind(after.unwrap_or_default())
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}

/// Its deliveries go with it. False: it is not there.
pub async fn delete(conn: &mut PgConnection, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query("delete from webhooks where id = $1").bind(id).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// Gives it another secret. Messages are signed with the one before too for `overlap`.
pub async fn rotate(
    conn: &mut PgConnection,
    id: Uuid,
    secret: &Secret,
    overlap: Duration,
) -> Result<Option<Webhook>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "update webhooks set previous_secret = secret, previous_until = now() + make_interval(secs => $3), secret = $2
         where id = $1 returning {COLUMNS}"
    )))
    .bind(id)
    .bind(secret.expose())
    .bind(overlap.as_secs_f64())
    .fetch_optional(conn)
    .await?)
}

/// Has it told again of what happens from now on.
pub async fn enable(conn: &mut PgConnection, id: Uuid) -> Result<Option<Webhook>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "update webhooks set enabled = true, disabled_reason = null, failing_since = null
         where id = $1 returning {COLUMNS}"
    )))
    .bind(id)
    .fetch_optional(conn)
    .await?)
}

/// Tells it of nothing more. What waits for it is given up, and can be sent again.
pub async fn disable(conn: &mut PgConnection, id: Uuid, reason: &str) -> Result<(), Error> {
    sqlx::query("update webhooks set enabled = false, disabled_reason = $2 where id = $1")
        .bind(id)
        .bind(reason)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "update webhook_deliveries set state = 'dead', error = $2, ended_at = now(), leased_until = null
         where webhook_id = $1 and state = 'pending'",
    )
    .bind(id)
    .bind(format!("the webhook is disabled: {reason}"))
    .execute(conn)
    .await?;
    Ok(())
}

/// Disables one whose receiver has taken nothing for `patience`, and says with which reason. None: it goes on.
pub async fn disable_failing(
    pool: &PgPool,
    id: Uuid,
    patience: Duration,
    last_error: &str,
) -> Result<Option<String>, Error> {
    let mut transaction = pool.begin().await?;
    let is_failing = sqlx::query(
        "select 1 from webhooks where id = $1 and enabled and failing_since <= now() - make_interval(secs => $2)
         for no key update",
    )
    .bind(id)
    .bind(patience.as_secs_f64())
    .fetch_optional(&mut *transaction)
    .await?;
    if is_failing.is_none() {
        return Ok(None);
    }
    let days = patience.as_secs() / (24 * 60 * 60);
    let reason = format!("no message was delivered for {days} days; the last try: {last_error}");
    disable(&mut transaction, id, &reason).await?;
    transaction.commit().await?;
    Ok(Some(reason))
}

/// A function that somebody is to be told of.
#[derive(Debug, Clone)]
pub struct Interest {
    pub owner: String,
    pub function_name: String,
    /// When the build or task ended, or the build was revoked; else now.
    pub at: DateTime<Utc>,
    pub webhooks: Vec<Uuid>,
}

/// Whether anybody is to be told of this about the function. `id` is the build's or the task's.
pub async fn interest(
    pool: &PgPool,
    function: i64,
    notice: Notice,
    id: Option<Uuid>,
) -> Result<Option<Interest>, Error> {
    let rows: Vec<(String, String, DateTime<Utc>, Uuid)> = sqlx::query_as(
        "select f.owner, f.name,
             case when $2 = 'revoked' then coalesce(s.revoked_at, now()) else coalesce(b.ended_at, t.ended_at, now()) end,
             w.id
         from functions f
         join webhooks w on w.owner = f.owner and w.enabled and (w.function_id is null or w.function_id = f.id)
         left join builds b on b.id = $3
         left join scans s on s.build_id = b.id
         left join tasks t on t.id = $3
         where f.id = $1 and $2 = any(w.events)
         order by w.id",
    )
    .bind(function)
    .bind(notice.as_str())
    .bind(id)
    .fetch_all(pool)
    .await?;
    let webhooks = rows.iter().map(|(.., id)| *id).collect();
    Ok(rows.into_iter().next().map(|(owner, function_name, at, _)| Interest {
        owner,
        function_name,
        at,
        webhooks,
    }))
}
