//! The janitor: a registry that stays small, and never loses a live image.
//!
//! Invariants:
//! 1. What goes is decided by a pure function that can be read and tested ([`plan`]), with a rule and a reason for
//!    each image; what can never go is listed there.
//! 2. An inventory or a record that can't be read wholly is an error, and nothing is deleted.
//! 3. A manifest and its tags are kept in PostgreSQL before it is deleted, and what speaks against it is asked again
//!    just before.
//! 4. The rows of a run are its state: it may be cut off anywhere and be gone on with by any replica, and there is one
//!    run at a time: whoever may have lost the lock deletes nothing more.
//! 5. A run that would delete more than a share of everything stops itself until it is confirmed. A dry run writes
//!    what it saw and planned, and nothing else.
//!
//! The way through: `cleanup.requested` → [`Janitor`] → `stock` (the registry, into a [`plan::Snapshot`]), `waiting` (the
//! tasks in the queue) and `records` (what we need) → [`plan::plan`] → rows → `apply`, one item after the other, each
//! unless there is an `objection` by now → `report`, on S3 and as `cleanup.done`. With `undo` set: rows → `undo` → the
//! registry.

mod apply;
mod config;
mod error;
mod metric_definitions;
mod objection;
pub mod plan;
mod planned_items;
mod records;
mod report;
mod run;
mod stock;
pub mod sweep;
mod undo;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use mecapy_bus::{Backbone, ConsumerOptions, topology};
use mecapy_objects::Objects;
use mecapy_proto::v1::CleanupRequested;
use mecapy_service::Context;

pub use config::{Config, Options};
pub use error::Error;
pub use mecapy_store::forecast::{Forecast, forecast};
pub use report::{Entry, Report};
pub use run::Janitor;

/// How soon a replica shows what another one's run found.
const SHOW_EVERY: Duration = Duration::from_secs(60);

pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    metric_definitions::register(&config.janitor.policies);
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    sweep::start(&config, &context, &backbone)?;
    let primary = config.registries.primary()?;
    let fallback = config.registries.fallback()?;
    let janitor = Janitor {
        pool: backbone.pool.clone(),
        bus: backbone.bus.clone(),
        inventory: Arc::from(config.registries.primary.inventory()?),
        hosts: [Some(&primary), fallback.as_ref()]
            .into_iter()
            .flatten()
            .map(|r| r.host().to_owned())
            .collect(),
        primary,
        fallback,
        objects: Objects::new(&config.s3),
        options: config.janitor.clone(),
    };
    let shown = async {
        while !context.shutdown.is_cancelled() {
            if let Err(error) = run::show_last_sample(&backbone.pool, &config.janitor).await {
                tracing::debug!(
                    error = mecapy_service::chain(&error),
                    "the storage used can't be shown yet"
                );
            }
            tokio::select! {
                () = context.shutdown.cancelled() => {}
                () = tokio::time::sleep(SHOW_EVERY) => {}
            }
        }
    };
    let ticks = async {
        if let Some(schedule) = &config.janitor.schedule {
            let requested = |run_id| CleanupRequested {
                run_id,
                reason: "schedule".to_owned(),
                ..CleanupRequested::default()
            };
            backbone.publish_ticks(&context, schedule, "cleanup", requested).await;
        }
    };
    let options = ConsumerOptions { durable: topology::JANITOR, concurrency: 1 };
    let backlog = topology::watch_backlog(&backbone.bus, &context.shutdown);
    tokio::join!(
        shown,
        ticks,
        backlog,
        backbone.consume::<CleanupRequested, _>(&context, options, janitor)
    );
    Ok(())
}
