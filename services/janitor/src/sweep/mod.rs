//! What is left lying about, found and dealt with: work that stands still, every minute, and what has had its use, every
//! hour. Neither waits for the other.
//!
//! Invariants:
//! 1. One replica does each of the two at a time, by locks of PostgreSQL that end with their holder.
//! 2. Work is taken for lost only if it has not moved for a while **and** the stream holds no message that may be
//!    its own: a long queue is not a loss, nor is a message that was sent late because NATS was away.
//! 3. What is sent again is handled once: under an id that streams don't know, and an event that the inbox does. Where
//!    it was not lost after all, two replicas may do the same work, at most `max_resends` times; the row's state, and a
//!    task's attempt, let one of them be recorded.
//! 4. Nothing stands still for ever: what was sent again too often without moving is ended, with a code.
//! 5. What a build or task that has not ended may need stays, whatever its age.
//! 6. A run is bounded in number and time, and the next one goes on where it stopped. One part that fails does not keep
//!    the others from their turn.

mod builds;
mod error;
mod metric_definitions;
mod objects;
mod options;
mod queues;
mod rows;
mod runs;
mod staging;
mod tasks;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_bus::{Backbone, Bus, Outbox};
use mecapy_objects::{Key, Objects};
use mecapy_registry::{Digest, Inventory, StoredManifest};
use mecapy_service::Context;
use mecapy_store::{PgPool, stalled};
use tokio_util::sync::CancellationToken;

use crate::Config;

pub use error::Error;
pub use mecapy_store::stalled::Part;
pub use options::Options;

/// All that the sweep works on.
pub struct Sweeps {
    pool: PgPool,
    bus: Bus,
    outbox: Outbox,
    objects: Objects,
    staging: Arc<dyn Inventory>,
    options: Options,
    progress: Mutex<Progress>,
}

/// What a run leaves to the next one of this process. Losing it costs reading again, no more.
#[derive(Default)]
struct Progress {
    /// The last key that was looked at, by prefix.
    cursors: HashMap<&'static str, Key>,
    /// The last staging repository that was looked at. None: the next run begins with the first.
    staging: Option<String>,
    /// The manifests that were seen in staging, by repository.
    manifests: HashMap<String, HashMap<Digest, StoredManifest>>,
}

/// What a run did: how many of what.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report(BTreeMap<&'static str, u64>);

impl Report {
    fn count(&mut self, what: &'static str, how_many: u64) {
        if how_many > 0 {
            *self.0.entry(what).or_default() += how_many;
            metric_definitions::swept(what).increment(how_many);
        }
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

impl Sweeps {
    pub fn new(
        backbone: &Backbone,
        objects: Objects,
        staging: Arc<dyn Inventory>,
        options: Options,
    ) -> Self {
        Self {
            pool: backbone.pool.clone(),
            bus: backbone.bus.clone(),
            outbox: backbone.outbox.clone(),
            objects,
            staging,
            options,
            progress: Mutex::default(),
        }
    }

    /// Sweeps until the service is told to stop.
    pub async fn keep_running(self, shutdown: CancellationToken) {
        let every = async |every: Duration, part: Part| {
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(every) => {}
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    swept = run(&self, part, Utc::now()) => if let Err(error) = swept {
                        tracing::warn!(error = mecapy_service::chain(&error), "the sweep waits");
                    },
                }
            }
        };
        tokio::join!(
            every(self.options.every(), Part::Work),
            every(self.options.housekeeping_every(), Part::Housekeeping)
        );
    }

    fn progress<T>(&self, look: impl FnOnce(&mut Progress) -> T) -> T {
        look(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sweeps in the background until the service is told to stop.
pub(crate) fn start(
    config: &Config,
    context: &Context,
    backbone: &Backbone,
) -> Result<(), mecapy_registry::Error> {
    metric_definitions::register();
    let staging = Arc::from(config.registries.staging_inventory()?);
    let objects = Objects::new(&config.s3);
    let sweeps = Sweeps::new(backbone, objects, staging, config.janitor.sweep.clone());
    tokio::spawn(sweeps.keep_running(context.shutdown.clone()));
    Ok(())
}

/// One sweep of a part. None: another replica is at it.
pub async fn run(sweeps: &Sweeps, part: Part, now: DateTime<Utc>) -> Result<Option<Report>, Error> {
    // The lock ends with the transaction, and that with the process or its connection.
    let mut lock = sweeps.pool.begin().await.map_err(mecapy_store::Error::from)?;
    if !stalled::try_lock(&mut lock, part).await? {
        return Ok(None);
    }
    let mut report = Report::default();
    match part {
        Part::Work => {
            noted("builds", builds::sweep(sweeps, now, &mut report).await);
            noted("tasks", tasks::sweep(sweeps, now, &mut report).await);
            noted("runs", runs::sweep(sweeps, now, &mut report).await);
        }
        Part::Housekeeping => {
            noted("rows", rows::sweep(sweeps, &mut report).await);
            noted("staging", staging::sweep(sweeps, now, &mut report).await);
            noted("objects", objects::sweep(sweeps, now, &mut report).await);
        }
    }
    if !report.0.is_empty() {
        tracing::info!(swept = ?report.0, "swept");
    }
    lock.rollback().await.map_err(mecapy_store::Error::from)?;
    Ok(Some(report))
}

fn noted(part: &'static str, result: Result<(), Error>) {
    if let Err(error) = result {
        metric_definitions::failures(part).increment(1);
        tracing::warn!(part, error = mecapy_service::chain(&error), "a part of the sweep failed");
    }
}
