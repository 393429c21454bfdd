//! Builds of functions, the newest first.

use chrono::{DateTime, Utc};
use mecapy_proto::{FunctionId, Owner};
use sqlx::PgPool;
use uuid::Uuid;

use super::Before;
use super::by_time::ByTime;
use crate::{BuildState, Error};

/// A build in a list.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Row {
    pub id: Uuid,
    pub function_id: i64,
    pub version: i32,
    #[sqlx(try_from = "String")]
    pub state: BuildState,
    pub error_code: Option<String>,
    pub requested_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub name: String,
    pub owner: String,
}

/// What a page is of.
#[derive(Debug, Clone, Default)]
pub struct Filter<'f> {
    pub owner: Option<&'f Owner>,
    pub function: Option<FunctionId>,
    pub state: Option<BuildState>,
    pub before: Option<Before>,
}

pub async fn page(pool: &PgPool, filter: &Filter<'_>, limit: u32) -> Result<Vec<Row>, Error> {
    // Else it is of a base image.
    let mut only = vec!["t.function_id is not null".to_owned()];
    only.extend(filter.state.map(|state| format!("t.state = '{state}'")));
    let list = ByTime {
        table: "builds",
        columns: "t.id, t.function_id, t.version, t.state, t.error_code, t.requested_at, t.started_at, t.ended_at",
        time: "requested_at",
        owner: filter.owner,
        function: filter.function,
        before: filter.before,
        only,
    };
    list.rows(pool, limit).await
}

/// What the mirror's record says of an image on the fallback: how it went there last, and when.
pub async fn on_fallback(
    pool: &PgPool,
    digest: &str,
) -> Result<Option<(String, DateTime<Utc>)>, Error> {
    Ok(sqlx::query_as(
        "select i.outcome, i.ended_at from mirror_images i join mirror_runs r on r.id = i.run_id and not r.dry_run
         where i.digest = $1 and i.outcome in ('mirrored', 'unchanged') and i.ended_at is not null
         order by i.ended_at desc limit 1",
    )
    .bind(digest)
    .fetch_optional(pool)
    .await?)
}
