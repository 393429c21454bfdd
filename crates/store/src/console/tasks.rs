//! Tasks, the newest first.

use chrono::{DateTime, Utc};
use mecapy_proto::{FunctionId, Owner};
use sqlx::PgPool;
use uuid::Uuid;

use super::Before;
use super::by_time::ByTime;
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

pub async fn page(pool: &PgPool, filter: &Filter<'_>, limit: u32) -> Result<Vec<Row>, Error> {
    let mut only = Vec::new();
    only.extend(filter.state.map(|state| format!("t.state = '{state}'")));
    only.extend(filter.cache.map(|cache| format!("t.cache = '{}'", cache.as_str())));
    let list = ByTime {
        table: "tasks",
        columns: "t.id, t.function_id, t.state, t.attempt, t.cache, t.worker, t.error_code, t.created_at, t.started_at, t.ended_at",
        time: "created_at",
        owner: filter.owner,
        function: filter.function,
        before: filter.before,
        only,
    };
    list.rows(pool, limit).await
}
