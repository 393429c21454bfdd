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
}
