//! The pool, and the schema.

use std::time::Duration;

use mecapy_service::Secret;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::Error;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Where PostgreSQL is (15 or newer).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `postgres://user@host:port/database`, TLS by `?sslmode=`.
    pub url: String,
    /// Kept apart from the URL, so that the URL can be shown.
    pub password: Option<Secret>,
    pub max_connections: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: "postgres://mecapy@127.0.0.1:5432/mecapy".to_owned(),
            password: None,
            max_connections: 10,
        }
    }
}

impl Options {
    fn connect_options(&self) -> Result<PgConnectOptions, Error> {
        let options: PgConnectOptions = self.url.parse().map_err(Error::Url)?;
        Ok(match &self.password {
            Some(password) => options.password(password.expose()),
            None => options,
        })
    }
}

/// A pool that connects when it is first used: a service starts without its database, and waits.
pub fn connect_lazy(options: &Options) -> Result<PgPool, Error> {
    Ok(pool_options(options).connect_lazy_with(options.connect_options()?))
}

/// A pool with one connection made, or the reason why not.
pub async fn connect(options: &Options) -> Result<PgPool, Error> {
    Ok(pool_options(options).connect_with(options.connect_options()?).await?)
}

fn pool_options(options: &Options) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(options.max_connections)
        .acquire_timeout(Duration::from_secs(5))
        // A connection that the server has dropped is found before a transaction begins on it.
        .test_before_acquire(false)
        .max_lifetime(Duration::from_secs(30 * 60))
}

/// Brings the schema up to date. Safe to run at once from several places: it takes a lock.
pub async fn migrate(pool: &PgPool) -> Result<(), Error> {
    Ok(MIGRATIONS.run(pool).await?)
}

/// Whether `mecapy setup` has run with this version, or a newer one.
pub async fn schema_is_current(pool: &PgPool) -> Result<bool, Error> {
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default();
    let exists: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(pool)
        .await?;
    if !exists {
        return Ok(false);
    }
    let applied: Option<i64> =
        sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
            .fetch_one(pool)
            .await?;
    Ok(applied.is_some_and(|applied| applied >= newest))
}
