//! How the system is: what waits and where, who is there, how the last hour went. Looked at once for all who ask.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::NaiveDate;
use mecapy_bus::{
    Bus, DrainOrder, Drains, ReplicaStatus, Replicas, WorkerStatus, Workers, dead_letters, topology,
};
use mecapy_service::chain;
use mecapy_store::cleanup_runs::Run;
use mecapy_store::console::figures;
use mecapy_store::console::revoked::{self, Hit, Rematch};
use mecapy_store::forecast::{Forecast, forecast};
use mecapy_store::mirror_choice::Lag;
use mecapy_store::mirror_drills::Drill;
use mecapy_store::mirror_runs::{Image, Totals};
use mecapy_store::{cleanup_runs, mirror_choice, mirror_drills, mirror_runs, storage_samples};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::Api;
use crate::{Caller, Error};

/// Several who look at once, and one who looks again, see the same.
const FRESH_FOR: Duration = Duration::from_secs(2);
/// A page must come although NATS is away.
const PATIENCE: Duration = Duration::from_secs(2);
/// As the janitor's forecast has it.
const TREND_DAYS: i32 = 90;
const RUNS: u32 = 30;
/// As the mirror has it.
const MIRROR_WINDOW_DAYS: u32 = 7;
const HITS: u32 = 200;
const REMATCHES: u32 = 20;

/// Builds and tasks: what is open, by state, and the last hour.
#[derive(Debug, Clone, Default)]
pub(crate) struct Work {
    pub open_builds: Vec<(String, i64)>,
    pub open_tasks: Vec<(String, i64)>,
    pub builds: figures::Builds,
    pub tasks: figures::Tasks,
}

/// A part that can't be seen says why.
pub(crate) type Seen<T> = Result<T, String>;
/// Of each consumer: messages that wait, messages in work.
pub(crate) type ConsumerBacklog = Seen<Vec<(topology::Durable, u64, usize)>>;

#[derive(Debug)]
pub(crate) struct Snapshot {
    pub work: Work,
    pub backlog: ConsumerBacklog,
    pub dead_letters: Seen<u64>,
    pub replicas: Seen<Vec<ReplicaStatus>>,
    pub workers: Seen<Vec<WorkerStatus>>,
    /// Workers that are to take no tasks.
    pub drains: Seen<Vec<DrainOrder>>,
}

/// How full the registry is.
#[derive(Debug)]
pub(crate) struct Storage {
    pub limit_bytes: u64,
    /// Of a day each, oldest first.
    pub samples: Vec<(NaiveDate, i64)>,
    pub forecast: Option<Forecast>,
    pub runs: Vec<Run>,
}

#[derive(Debug)]
pub(crate) struct Mirrored {
    pub lag: Lag,
    pub runs: Vec<(mirror_runs::Run, Totals)>,
    pub drill: Option<Drill>,
}

#[derive(Debug)]
pub(crate) struct Advisories {
    /// Engine, version of its database, whether that is the starter set, and when it was used.
    pub newest_scan: Option<(String, String, bool, chrono::DateTime<chrono::Utc>)>,
    pub rematches: Vec<Rematch>,
    pub hits: Vec<Hit>,
}

#[derive(Debug)]
pub(super) struct System {
    bus: Bus,
    replicas: Replicas,
    workers: Workers,
    drains: Drains,
    newest: Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl System {
    pub(super) fn new(bus: Bus) -> Self {
        Self {
            replicas: Replicas::new(bus.clone()),
            workers: Workers::new(bus.clone()),
            drains: Drains::new(bus.clone()),
            bus,
            newest: Mutex::default(),
        }
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    pub(super) fn drains(&self) -> &Drains {
        &self.drains
    }

    /// Whoever asks next looks anew.
    pub(super) async fn forget(&self) {
        *self.newest.lock().await = None;
    }
}

/// What NATS says in time.
async fn seen<T>(asked: impl Future<Output = Result<T, mecapy_bus::Error>>) -> Seen<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err("NATS does not answer".to_owned()),
    }
}

impl Api {
    /// Tells that something has happened to a build or a task, whosever.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.hub.any()
    }

    /// Ends what waits.
    pub(crate) fn shutdown(&self) -> CancellationToken {
        self.0.shutdown.clone()
    }

    /// An owner's builds and tasks; everybody's for those who see all.
    pub(crate) async fn work(&self, caller: &Caller) -> Result<Work, Error> {
        let (pool, owner) = (&self.0.pool, caller.scope());
        let ((open_builds, open_tasks), builds, tasks) = tokio::try_join!(
            figures::open(pool, owner),
            figures::builds(pool, owner),
            figures::tasks(pool, owner),
        )?;
        Ok(Work { open_builds, open_tasks, builds, tasks })
    }

    pub(crate) async fn snapshot(&self, caller: &Caller) -> Result<Arc<Snapshot>, Error> {
        caller.must_see_all()?;
        let system = &self.0.system;
        // Whoever comes meanwhile waits for what the first one finds.
        let mut newest = system.newest.lock().await;
        if let Some((at, snapshot)) = newest.as_ref()
            && at.elapsed() < FRESH_FOR
        {
            return Ok(snapshot.clone());
        }
        let (work, backlog, dead_letters, replicas, workers, drains) = tokio::join!(
            self.work(caller),
            seen(topology::backlog(&system.bus)),
            seen(dead_letters::count(&system.bus)),
            seen(system.replicas.list()),
            seen(system.workers.list()),
            seen(system.drains.list()),
        );
        let work = work?;
        let snapshot = Snapshot { work, backlog, dead_letters, replicas, workers, drains };
        let snapshot = Arc::new(snapshot);
        *newest = Some((Instant::now(), snapshot.clone()));
        Ok(snapshot)
    }

    pub(crate) async fn storage(&self, caller: &Caller) -> Result<Storage, Error> {
        caller.must_see_all()?;
        let (samples, runs) = tokio::try_join!(
            storage_samples::list(&self.0.pool, TREND_DAYS),
            cleanup_runs::list(&self.0.pool, i64::from(RUNS)),
        )?;
        let limit_bytes = self.0.storage_limit_bytes;
        let forecast = forecast(&samples, limit_bytes);
        Ok(Storage { limit_bytes, samples, forecast, runs })
    }

    pub(crate) async fn mirrored(&self, caller: &Caller) -> Result<Mirrored, Error> {
        caller.must_see_all()?;
        let pool = &self.0.pool;
        let (lag, found, drill) = tokio::try_join!(
            mirror_choice::lag(pool, MIRROR_WINDOW_DAYS),
            mirror_runs::list(pool, RUNS),
            mirror_drills::newest(pool),
        )?;
        let mut runs = Vec::with_capacity(found.len());
        for run in found {
            let totals = mirror_runs::totals(pool, &run.id).await?;
            runs.push((run, totals));
        }
        Ok(Mirrored { lag, runs, drill })
    }

    pub(crate) async fn mirror_run(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<(mirror_runs::Run, Totals, Vec<Image>), Error> {
        caller.must_see_all()?;
        let pool = &self.0.pool;
        let run = mirror_runs::get(pool, id).await?;
        let run = run.ok_or_else(|| Error::NotFound("mirror run with this id".to_owned()))?;
        let (totals, images) =
            tokio::try_join!(mirror_runs::totals(pool, id), mirror_runs::images(pool, id))?;
        Ok((run, totals, images))
    }

    pub(crate) async fn advisories(&self, caller: &Caller) -> Result<Advisories, Error> {
        caller.must_see_all()?;
        let pool = &self.0.pool;
        let (newest_scan, rematches, hits) = tokio::try_join!(
            revoked::newest_scan(pool),
            revoked::rematches(pool, REMATCHES),
            revoked::live(pool, HITS),
        )?;
        Ok(Advisories { newest_scan, rematches, hits })
    }
}
