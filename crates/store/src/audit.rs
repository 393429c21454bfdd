//! Who did what: a row for each thing that somebody asked for and that changes something.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::Error;

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Action<'a> {
    pub owner: &'a str,
    pub role: &'a str,
    pub action: &'a str,
    pub target: &'a str,
    pub detail: Value,
}

/// As it is kept.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Row {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub owner: String,
    pub role: String,
    pub action: String,
    pub target: String,
    pub detail: Value,
    /// done, begun, or why it failed.
    pub outcome: String,
}

/// Part of the transaction that does it.
pub async fn record(conn: &mut PgConnection, action: &Action<'_>) -> Result<(), Error> {
    write(conn, action, "done").await?;
    Ok(())
}

/// Before something is done that is not in this database. The row that [`settle`] takes.
pub async fn begin(pool: &PgPool, action: &Action<'_>) -> Result<i64, Error> {
    let mut conn = pool.acquire().await?;
    write(&mut conn, action, "begun").await
}

/// How it went.
pub async fn settle(pool: &PgPool, row: i64, outcome: &str) -> Result<(), Error> {
    sqlx::query("update audit set outcome = $2 where id = $1")
        .bind(row)
        .bind(outcome)
        .execute(pool)
        .await?;
    Ok(())
}

async fn write(conn: &mut PgConnection, action: &Action<'_>, outcome: &str) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(
        "insert into audit (owner, role, action, target, detail, outcome)
         values ($1, $2, $3, $4, $5, $6) returning id",
    )
    .bind(action.owner)
    .bind(action.role)
    .bind(action.action)
    .bind(action.target)
    .bind(&action.detail)
    .bind(outcome)
    .fetch_one(conn)
    .await?)
}

/// The newest first, from before a row on.
pub async fn page(pool: &PgPool, before: Option<i64>, limit: u32) -> Result<Vec<Row>, Error> {
    Ok(sqlx::query_as(
        "select id, at, owner, role, action, target, detail, outcome from audit
         where id < $1 order by id desc limit $2",
    )
    .bind(before.unwrap_or(i64::MAX))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}
