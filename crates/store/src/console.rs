//! What the console shows: lists by key, newest first, and figures of the last hour. It reads; what it changes is in
//! the modules of what is changed.
//!
//! A list has an owner's rows or everybody's. It begins after the last row of the page before, so that the hundredth
//! page costs what the first does.

pub mod builds;
pub mod figures;
pub mod functions;
pub mod revoked;
pub mod tasks;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::Error;

/// The last row of the page before, of lists by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    pub at: DateTime<Utc>,
    pub id: Uuid,
}

/// An owner with more functions than this is most of what there is: then all rows are read in their order and the
/// others' left out; else each function is asked for its newest rows.
const FEW_FUNCTIONS: i64 = 500;

async fn has_few_functions(pool: &PgPool, owner: &str) -> Result<bool, Error> {
    let count: i64 = sqlx::query_scalar(
        "select count(*) from (select 1 from functions where owner = $1 and deleted_at is null limit $2) f",
    )
    .bind(owner)
    .bind(FEW_FUNCTIONS + 1)
    .fetch_one(pool)
    .await?;
    Ok(count <= FEW_FUNCTIONS)
}

/// Leaves out the rows up to the page before.
fn push_before(
    query: &mut QueryBuilder<Postgres>,
    time: &str,
    id_column: &str,
    before: Option<Before>,
) {
    if let Some(Before { at, id }) = before {
        query.push(format_args!(" and ({time}, {id_column}) < (")).push_bind(at).push(", ");
        query.push_bind(id).push(")");
    }
}

/// Text as the beginning of a `like`.
fn prefix(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        if matches!(character, '\\' | '%' | '_') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_looks_for_is_no_pattern() {
        assert_eq!(prefix("a_b%c\\"), "a\\_b\\%c\\\\%");
    }
}
