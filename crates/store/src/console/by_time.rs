//! The newest rows of a table of what belongs to functions: builds, tasks.

use mecapy_proto::{FunctionId, Owner};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgPool, Postgres, QueryBuilder};

use super::Before;
use crate::Error;

/// An owner with more functions than this is most of what there is: then all rows are read in their order and the
/// others' left out; else each function is asked for its newest rows.
const FEW_FUNCTIONS: i64 = 500;

/// A list, newest first. The table is `t` in what is text of the query.
pub(super) struct ByTime<'f> {
    pub table: &'static str,
    pub columns: &'static str,
    /// When a row was made.
    pub time: &'static str,
    pub owner: Option<&'f Owner>,
    pub function: Option<FunctionId>,
    pub before: Option<Before>,
    /// What a row must be. As text of the query: so PostgreSQL knows which of the indexes serves. Nothing of it is
    /// what somebody wrote.
    pub only: Vec<String>,
}

impl ByTime<'_> {
    /// Rows of functions that are not deleted, each with its function's name and owner.
    pub(super) async fn rows<T>(self, pool: &PgPool, limit: u32) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let by_function = match (self.function, self.owner) {
            (None, Some(owner)) => has_few_functions(pool, owner).await?,
            _ => false,
        };
        let Self { table, columns, time, owner, function, before, only } = self;
        let mut query = QueryBuilder::<Postgres>::new("select ");
        if by_function {
            query.push(format_args!(
                "t.*, f.name, f.owner from functions f cross join lateral (
                     select {columns} from {table} t where t.function_id = f.id"
            ));
        } else {
            query.push(format_args!(
                "{columns}, f.name, f.owner from {table} t join functions f on f.id = t.function_id
                 where f.deleted_at is null"
            ));
        }
        if let Some(function) = function {
            query.push(" and t.function_id = ").push_bind(function.get());
        }
        for condition in only {
            query.push(" and ").push(condition);
        }
        if let Some(Before { at, id }) = before {
            query.push(format_args!(" and (t.{time}, t.id) < (")).push_bind(at);
            query.push(", ").push_bind(id).push(")");
        }
        let newest_first = format!(" order by t.{time} desc, t.id desc limit ");
        if by_function {
            query.push(&newest_first).push_bind(i64::from(limit));
            query.push(") t where f.deleted_at is null");
        }
        if let Some(owner) = owner {
            query.push(" and f.owner = ").push_bind(owner.as_str().to_owned());
        }
        query.push(newest_first).push_bind(i64::from(limit));
        Ok(query.build_query_as().fetch_all(pool).await?)
    }
}

async fn has_few_functions(pool: &PgPool, owner: &Owner) -> Result<bool, Error> {
    let count: i64 = sqlx::query_scalar(
        "select count(*) from (select 1 from functions where owner = $1 and deleted_at is null limit $2) f",
    )
    .bind(owner.as_str())
    .bind(FEW_FUNCTIONS + 1)
    .fetch_one(pool)
    .await?;
    Ok(count <= FEW_FUNCTIONS)
}
