//! Scanning again: live images against a new database of advisories, and what is revoked.

use chrono::{DateTime, Utc};
use mecapy_proto::BuildId;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::Error;

/// An image that runs or may run.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Live {
    pub build_id: Uuid,
    /// The base first. Empty: its engine keeps no indexes.
    pub layers: Vec<String>,
}

/// Images that passed and are published, or are about to be: of functions that are not deleted every version, since
/// a task may name it; of each base the newest.
pub async fn live(pool: &PgPool) -> Result<Vec<Live>, Error> {
    Ok(sqlx::query_as(
        "select s.build_id, s.layers from scans s
         join builds b on b.id = s.build_id
         left join functions f on f.id = b.function_id
         where s.verdict = 'PASSED' and b.state in ('publishing', 'ready')
             and (f.id is null or f.deleted_at is null)
             and (b.base is null or not exists (
                 select 1 from builds n where n.base = b.base and n.state = 'ready'
                     and n.requested_at > b.requested_at))
         order by s.build_id",
    )
    .fetch_all(pool)
    .await?)
}

/// What a database says of images that have the same packages.
#[derive(Debug, Clone)]
pub struct Matched {
    pub database_version: String,
    pub critical: u32,
    pub high: u32,
    pub medium: u32,
    pub low: u32,
    pub unknown: u32,
    /// As the events carry them.
    pub findings: Value,
    /// The policy would reject them now.
    pub revoked: bool,
    /// Workers run them no more.
    pub refused: bool,
}

/// An image that what was found changed something for.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Changed {
    build_id: Uuid,
    pub function_id: Option<i64>,
    pub owner: Option<String>,
    pub version: Option<i32>,
    pub base: Option<String>,
    pub docker_image: Option<String>,
    pub digest: String,
    pub was_revoked: bool,
}

impl Changed {
    pub fn build(&self) -> BuildId {
        BuildId::from_uuid(self.build_id)
    }
}

/// Records it for those builds for which it is news.
pub async fn record(
    conn: &mut PgConnection,
    builds: &[Uuid],
    matched: &Matched,
) -> Result<Vec<Changed>, Error> {
    Ok(sqlx::query_as(
        "with before as (
             select build_id, revoked_at is not null as was_revoked from scans
             where build_id = any($1) and verdict = 'PASSED'
                 and (critical, high, medium, low, unknown, findings, revoked_at is not null, refused)
                     is distinct from ($2, $3, $4, $5, $6, $7, $8, $9)
             order by build_id for update),
         changed as (
             update scans s set critical = $2, high = $3, medium = $4, low = $5, unknown = $6, findings = $7,
                 revoked_at = case when $8 then coalesce(s.revoked_at, now()) end, refused = $9,
                 rematched_with = $10
             from before where s.build_id = before.build_id
             returning s.build_id, s.digest, before.was_revoked)
         select c.build_id, b.function_id, f.owner, b.version, b.base, b.docker_image, c.digest, c.was_revoked
         from changed c join builds b on b.id = c.build_id left join functions f on f.id = b.function_id
         order by c.build_id",
    )
    .bind(builds)
    .bind(count(matched.critical))
    .bind(count(matched.high))
    .bind(count(matched.medium))
    .bind(count(matched.low))
    .bind(count(matched.unknown))
    .bind(&matched.findings)
    .bind(matched.revoked)
    .bind(matched.revoked && matched.refused)
    .bind(&matched.database_version)
    .fetch_all(conn)
    .await?)
}

/// Whether there is nothing to do: these were matched with this key, or with a newer database.
pub async fn is_done(pool: &PgPool, key: &str, newest: DateTime<Utc>) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("select exists (select 1 from rematches where key = $1 or newest > $2)")
        .bind(key)
        .bind(newest)
        .fetch_one(pool)
        .await?)
}

/// How a rematch went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub images: u32,
    pub unindexed: u32,
    pub revoked: u32,
    pub restored: u32,
    pub duration_ms: u64,
}

pub async fn done(
    pool: &PgPool,
    key: &str,
    database_version: &str,
    newest: DateTime<Utc>,
    summary: &Summary,
) -> Result<(), Error> {
    sqlx::query(
        "insert into rematches (key, database_version, newest, images, unindexed, revoked, restored, duration_ms)
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing",
    )
    .bind(key)
    .bind(database_version)
    .bind(newest)
    .bind(count(summary.images))
    .bind(count(summary.unindexed))
    .bind(count(summary.revoked))
    .bind(count(summary.restored))
    .bind(i64::try_from(summary.duration_ms).unwrap_or(i64::MAX))
    .execute(pool)
    .await?;
    Ok(())
}

fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
