//! One after another, over all processes.

use sqlx::{PgPool, Postgres, Transaction};

use crate::Error;

/// Somebody's turn at something. It ends when this is dropped, or its process dies.
#[derive(Debug)]
pub struct Turn {
    _lock: Transaction<'static, Postgres>,
}

impl Turn {
    /// Waits until nobody else has the turn at `name`.
    pub async fn at(pool: &PgPool, name: &str) -> Result<Self, Error> {
        let mut lock = pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(name)
            .execute(&mut *lock)
            .await?;
        Ok(Self { _lock: lock })
    }

    /// The turn at the list of what refers to an image: publisher and mirror add to it, and registries let the last one
    /// win.
    pub async fn at_referrers(
        pool: &PgPool,
        registry: &str,
        repository: &str,
        digest: &str,
    ) -> Result<Self, Error> {
        Self::at(pool, &format!("referrers {registry}/{repository}@{digest}")).await
    }
}
