//! Tasks, the newest first.

use chrono::{DateTime, Utc};
use mecapy_proto::{FunctionId, Owner};
use sqlx::{PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use super::{Before, has_few_functions, push_before};
use crate::{Error, TaskState};

/// A task in a list.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Row {
    pub id: Uuid,
    pub function_id: i64,
    #[sqlx(try_from = "String")]
    pub state: TaskState,
    pub attempt: i32,
    pub cache: Option<String>,
    pub worker: Option<String>,
    pub error_code: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub name: String,
    pub owner: String,
}

/// From where a task's image came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    Hit,
    Miss,
    Failover,
}

impl Cache {
    pub const ALL: &[Self] = &[Self::Hit, Self::Miss, Self::Failover];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Failover => "FAILOVER",
        }
    }
}

/// What a page is of.
#[derive(Debug, Clone, Default)]
pub struct Filter<'f> {
    pub owner: Option<&'f Owner>,
    pub function: Option<FunctionId>,
    pub state: Option<TaskState>,
    pub cache: Option<Cache>,
    pub before: Option<Before>,
}

const COLUMNS: &str = "t.id, t.function_id, t.state, t.attempt, t.cache, t.worker, t.error_code, t.created_at, t.started_at, t.ended_at";

pub async fn page(pool: &PgPool, filter: &Filter<'_>, limit: u32) -> Result<Vec<Row>, Error> {
    let by_function = match (filter.function, filter.owner) {
        (None, Some(owner)) => has_few_functions(pool, owner.as_str()).await?,
        _ => false,
    };
    let mut query = QueryBuilder::<Postgres>::new("select ");
    if by_function {
        query.push("t.*, f.name, f.owner from functions f cross join lateral (select ");
        query.push(COLUMNS).push(" from tasks t where t.function_id = f.id");
    } else {
        query
            .push(COLUMNS)
            .push(", f.name, f.owner from tasks t join functions f on f.id = t.function_id");
        query.push(" where f.deleted_at is null");
    }
    if let Some(function) = filter.function {
        query.push(" and t.function_id = ").push_bind(function.get());
    }
    // As text of the query: so PostgreSQL knows which of the indexes serves.
    if let Some(state) = filter.state {
        query.push(format_args!(" and t.state = '{state}'"));
    }
    if let Some(cache) = filter.cache {
        query.push(format_args!(" and t.cache = '{}'", cache.as_str()));
    }
    push_before(&mut query, "t.created_at", "t.id", filter.before);
    if by_function {
        query.push(" order by t.created_at desc, t.id desc limit ").push_bind(i64::from(limit));
        query.push(") t where f.deleted_at is null");
    }
    if let Some(owner) = filter.owner {
        query.push(" and f.owner = ").push_bind(owner.as_str().to_owned());
    }
    query.push(" order by t.created_at desc, t.id desc limit ").push_bind(i64::from(limit));
    Ok(query.build_query_as().fetch_all(pool).await?)
}
