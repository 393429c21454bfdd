//! PostgreSQL: the truth of the pipeline.
//!
//! Invariants:
//! 1. All SQL is here, one module an entity.
//! 2. States move forward only. Each move is one conditional `UPDATE`: it says whether it happened,
//!    so that a message which comes twice, late or out of order changes nothing.
//! 3. What a message changes, that it was handled ([`inbox`]) and what it sends ([`outbox`])
//!    are written in one transaction, by `mecapy-bus`.
//!
//! Functions that are part of such a transaction take a connection; those that only read take the pool.

pub mod audit;
pub mod bases;
pub mod builds;
pub mod cleanup_items;
pub mod cleanup_runs;
pub mod cleanup_usage;
mod connect;
pub mod console;
pub mod deliveries;
pub mod forecast;
pub mod functions;
pub mod in_use;
pub mod inbox;
pub mod layers;
pub mod leases;
pub mod leftovers;
pub mod mirror_choice;
pub mod mirror_drills;
pub mod mirror_progress;
pub mod mirror_runs;
pub mod outbox;
pub mod rebuilds;
pub mod registry_images;
pub mod rematches;
pub mod resolutions;
pub mod scans;
pub mod schedule_key;
pub mod sessions;
pub mod stages;
pub mod staging;
pub mod stalled;
pub mod stalled_runs;
mod state;
pub mod storage_samples;
pub mod task_runs;
pub mod tasks;
mod turn;
pub mod usage;
pub mod webhooks;

pub use connect::{Options, connect, connect_lazy, migrate, schema_is_current};
pub use sqlx::{PgConnection, PgPool, Postgres, Transaction};
pub use state::{BuildState, TaskState};
pub use turn::Turn;

use mecapy_proto::v1::Failure;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the database did not answer as expected")]
    Database(#[from] sqlx::Error),
    #[error("the schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("postgres.url: not a PostgreSQL URL (postgres://user@host:port/database)")]
    Url(#[source] sqlx::Error),
    #[error("a row holds {column} = {value:?}, which this version does not know")]
    Unknown { column: &'static str, value: String },
}

/// A failure as it is kept in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFailure {
    pub code: String,
    pub message: String,
    pub log: Vec<String>,
}

impl From<Failure> for StoredFailure {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code, message: failure.message, log: failure.log_tail }
    }
}

impl From<StoredFailure> for Failure {
    fn from(failure: StoredFailure) -> Self {
        Self { code: failure.code, message: failure.message, log_tail: failure.log }
    }
}

fn stored_failure(
    code: Option<String>,
    message: Option<String>,
    log: Option<Vec<String>>,
) -> Option<StoredFailure> {
    code.map(|code| StoredFailure {
        code,
        message: message.unwrap_or_default(),
        log: log.unwrap_or_default(),
    })
}
