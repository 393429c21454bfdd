//! Lists by key, newest first: what the console's tables show.

use chrono::DateTime;
use mecapy_proto::{BuildId, FunctionId, TaskId};
use mecapy_store::console::{Before, builds, functions, tasks};
use mecapy_store::{BuildState, TaskState, audit};

use super::Api;
use crate::{Caller, Error};

/// Rows of a page.
pub(super) const PAGE: u32 = 50;

/// A page, and the token of the next.
#[derive(Debug)]
pub(crate) struct Listed<T> {
    pub rows: Vec<T>,
    /// None: it is the last.
    pub next: Option<String>,
}

impl<T> Listed<T> {
    /// Of one row more than a page has, if there are more.
    pub(super) fn of(mut rows: Vec<T>, token: impl FnOnce(&T) -> String) -> Self {
        let more = rows.len() > PAGE as usize;
        rows.truncate(PAGE as usize);
        let next = rows.last().filter(|_| more).map(token);
        Self { rows, next }
    }
}

#[derive(Debug, Default)]
pub(crate) struct FunctionQuery {
    /// The beginning of its name; empty: any.
    pub name: String,
    pub page_token: String,
}

#[derive(Debug, Default)]
pub(crate) struct BuildQuery {
    pub function: Option<FunctionId>,
    pub state: Option<BuildState>,
    pub page_token: String,
}

#[derive(Debug, Default)]
pub(crate) struct TaskQuery {
    pub function: Option<FunctionId>,
    pub state: Option<TaskState>,
    pub cache: Option<tasks::Cache>,
    pub page_token: String,
}

impl Api {
    /// Functions that the caller may see, each with its newest build.
    pub(crate) async fn list_functions(
        &self,
        caller: &Caller,
        query: &FunctionQuery,
    ) -> Result<Listed<functions::Row>, Error> {
        let filter = functions::Filter {
            owner: caller.scope(),
            name: Some(query.name.as_str()).filter(|name| !name.is_empty()),
            before: number(&query.page_token)?,
        };
        let rows = functions::page(&self.0.pool, &filter, PAGE + 1).await?;
        Ok(Listed::of(rows, |row| row.id.to_string()))
    }

    pub(crate) async fn list_builds(
        &self,
        caller: &Caller,
        query: &BuildQuery,
    ) -> Result<Listed<builds::Row>, Error> {
        let filter = builds::Filter {
            owner: caller.scope(),
            function: query.function,
            state: query.state,
            before: before(&query.page_token)?,
        };
        let rows = builds::page(&self.0.pool, &filter, PAGE + 1).await?;
        Ok(Listed::of(rows, |row| token(row.requested_at, BuildId::from_uuid(row.id))))
    }

    pub(crate) async fn list_tasks(
        &self,
        caller: &Caller,
        query: &TaskQuery,
    ) -> Result<Listed<tasks::Row>, Error> {
        let filter = tasks::Filter {
            owner: caller.scope(),
            function: query.function,
            state: query.state,
            cache: query.cache,
            before: before(&query.page_token)?,
        };
        let rows = tasks::page(&self.0.pool, &filter, PAGE + 1).await?;
        Ok(Listed::of(rows, |row| token(row.created_at, TaskId::from_uuid(row.id))))
    }

    /// Who did what; for operators.
    pub(crate) async fn audit(
        &self,
        caller: &Caller,
        page_token: &str,
    ) -> Result<Listed<audit::Row>, Error> {
        caller.must_operate()?;
        let rows = audit::page(&self.0.pool, number(page_token)?, PAGE + 1).await?;
        Ok(Listed::of(rows, |row| row.id.to_string()))
    }
}

/// PostgreSQL keeps microseconds.
fn token(at: DateTime<chrono::Utc>, id: impl std::fmt::Display) -> String {
    format!("{}.{id}", at.timestamp_micros())
}

fn before(token: &str) -> Result<Option<Before>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token.split_once('.').and_then(|(at, id)| {
        let at = DateTime::from_timestamp_micros(at.parse().ok()?)?;
        Some(Before { at, id: id.parse().ok()? })
    });
    parsed.map(Some).ok_or_else(wrong_token)
}

pub(super) fn number(token: &str) -> Result<Option<i64>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    token.parse().map(Some).map_err(|_| wrong_token())
}

pub(super) fn wrong_token() -> Error {
    Error::field_is("page_token", "the token is not from the last page")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_next_one_only_where_there_are_more_rows() {
        let of = |count| Listed::of((0..count).collect(), |last: &u32| last.to_string());
        assert_eq!(of(PAGE).next, None);
        let more = of(PAGE + 1);
        assert_eq!((more.rows.len(), more.next.as_deref()), (PAGE as usize, Some("49")));
    }

    #[test]
    fn a_token_leads_to_where_it_came_from() {
        let (at, id) =
            (DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(), TaskId::new());
        let read = before(&token(at, id)).unwrap().unwrap();
        assert_eq!((read.at, read.id), (at, id.uuid()));
        assert_eq!(before("").unwrap(), None);
        for wrong in ["x", "1", "1.x", ".", "99999999999999999999.x"] {
            assert!(before(wrong).is_err(), "{wrong}");
        }
        assert!(number("x").is_err());
    }
}
