//! Builds of functions, the newest first.

use chrono::{DateTime, Utc};
use mecapy_proto::{FunctionId, Owner};
use sqlx::{PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use super::{Before, has_few_functions, push_before};
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

const COLUMNS: &str = "b.id, b.function_id, b.version, b.state, b.error_code, b.requested_at, b.started_at, b.ended_at";

pub async fn page(pool: &PgPool, filter: &Filter<'_>, limit: u32) -> Result<Vec<Row>, Error> {
    let by_function = match (filter.function, filter.owner) {
        (None, Some(owner)) => has_few_functions(pool, owner.as_str()).await?,
        _ => false,
    };
    let mut query = QueryBuilder::<Postgres>::new("select ");
    if by_function {
        query.push("b.*, f.name, f.owner from functions f cross join lateral (select ");
        query.push(COLUMNS).push(" from builds b where b.function_id = f.id");
    } else {
        query
            .push(COLUMNS)
            .push(", f.name, f.owner from builds b join functions f on f.id = b.function_id");
        query.push(" where f.deleted_at is null and b.function_id is not null");
    }
    if let Some(function) = filter.function {
        query.push(" and b.function_id = ").push_bind(function.get());
    }
    if let Some(state) = filter.state {
        // As text of the query: so PostgreSQL knows which of the indexes serves.
        query.push(format_args!(" and b.state = '{state}'"));
    }
    push_before(&mut query, "b.requested_at", "b.id", filter.before);
    if by_function {
        query.push(" order by b.requested_at desc, b.id desc limit ").push_bind(i64::from(limit));
        query.push(") b where f.deleted_at is null");
    }
    if let Some(owner) = filter.owner {
        query.push(" and f.owner = ").push_bind(owner.as_str().to_owned());
    }
    query.push(" order by b.requested_at desc, b.id desc limit ").push_bind(i64::from(limit));
    Ok(query.build_query_as().fetch_all(pool).await?)
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
