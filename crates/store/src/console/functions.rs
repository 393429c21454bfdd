//! Functions, the newest first, each with its newest build.

use chrono::{DateTime, Utc};
use mecapy_proto::{FunctionId, Owner};
use sqlx::{PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use super::prefix;
use crate::Error;

/// A function in a list.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Row {
    pub id: i64,
    pub owner: String,
    pub name: String,
    pub created_at: DateTime<Utc>,
    /// A version of it can run.
    pub is_live: bool,
    pub build_id: Option<Uuid>,
    pub version: Option<i32>,
    pub state: Option<String>,
    pub requested_at: Option<DateTime<Utc>>,
    pub size_bytes: Option<i64>,
    pub critical: Option<i32>,
    pub high: Option<i32>,
    pub is_revoked: bool,
}

/// What a page is of.
#[derive(Debug, Clone, Default)]
pub struct Filter<'f> {
    pub owner: Option<&'f Owner>,
    /// The beginning of its name.
    pub name: Option<&'f str>,
    /// The last function of the page before.
    pub before: Option<i64>,
}

pub async fn page(pool: &PgPool, filter: &Filter<'_>, limit: u32) -> Result<Vec<Row>, Error> {
    let mut query = QueryBuilder::<Postgres>::new(
        "select f.id, f.owner, f.name, f.created_at, f.docker_image is not null as is_live,
             b.id as build_id, b.version, b.state, b.requested_at, b.size_bytes, s.critical, s.high,
             s.revoked_at is not null as is_revoked
         from (select * from functions where deleted_at is null",
    );
    if let Some(owner) = filter.owner {
        query.push(" and owner = ").push_bind(owner.as_str().to_owned());
    }
    if let Some(name) = filter.name {
        query.push(" and name like ").push_bind(prefix(name));
    }
    if let Some(before) = filter.before {
        query.push(" and id < ").push_bind(before);
    }
    query.push(" order by id desc limit ").push_bind(i64::from(limit));
    query.push(
        ") f left join lateral (
             select id, version, state, requested_at, size_bytes from builds where function_id = f.id
             order by version desc, (state = 'ready') desc, requested_at desc limit 1) b on true
         left join scans s on s.build_id = b.id
         order by f.id desc",
    );
    Ok(query.build_query_as().fetch_all(pool).await?)
}

/// How often its images ran, a row a day, of the last `days` days.
pub async fn usage(
    pool: &PgPool,
    function: FunctionId,
    days: i32,
) -> Result<Vec<(chrono::NaiveDate, i64)>, Error> {
    Ok(sqlx::query_as(
        "select day, sum(tasks)::bigint from image_usage
         where function_id = $1 and day > (now() at time zone 'utc')::date - $2::integer
         group by day order by day",
    )
    .bind(function.get())
    .bind(days)
    .fetch_all(pool)
    .await?)
}
