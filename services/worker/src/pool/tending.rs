//! How as many containers wait as should: what the next task would miss is started at once, and the rest when there is
//! time for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mecapy_engine::Error as EngineError;

use super::{NotMade, Pool};
use crate::background::Background;
use crate::code_layer::PoolKey;
use crate::images::Held;
use crate::leaving::Leaves;
use crate::pool_folder::PoolFolder;
use crate::pool_plan::{Bounds, Demand, Holding, excess, plan};
use crate::shelf::Shelf;
use crate::slot::Slot;
use crate::{machine_memory, metric_definitions as metrics};

/// Demand changes with time as well.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While another process has the folder: as a rule the one before this, which ends.
const CLAIM_EVERY: Duration = Duration::from_secs(1);
/// How many are started at once: more of them would take the cores from tasks that run.
const STARTS_AT_ONCE: usize = 2;
/// How long a start that nobody waits for waits for a moment without tasks.
const START_WITHIN: Duration = Duration::from_secs(2);
/// And the removal of what is not wanted any more.
const REMOVE_WITHIN: Duration = Duration::from_secs(10);

/// A container that is to be started.
pub(super) struct Start {
    key: PoolKey,
    image: Arc<Held>,
    imports: Vec<String>,
    measure: bool,
}

impl Pool {
    /// Sees to it, for as long as the process runs, that as many wait as should.
    pub(crate) async fn tend(self) {
        tokio::join!(self.get_folder(), self.keep_up(), self.fill_up());
    }

    /// Until there is one.
    async fn get_folder(&self) {
        while self.folder().is_none() && !self.is_off() {
            tokio::time::sleep(CLAIM_EVERY).await;
            let claimed = PoolFolder::claim(&self.0.options.pool.directory, &self.0.worker);
            if self.take_folder(claimed) {
                tracing::info!("containers are parked from now on: this worker's name is its own");
            }
        }
    }

    /// Starts at once what the next tasks would miss, and has what is too much removed.
    async fn keep_up(&self) {
        loop {
            let _ = tokio::time::timeout(LOOK_EVERY, self.0.changed.notified()).await;
            if !self.is_on() {
                continue;
            }
            let surplus = self.take_surplus();
            if !surplus.is_empty() {
                tokio::spawn(remove(surplus, self.0.background.clone()));
            }
            while let Some(start) = self.next_start(Shelf::is_short) {
                self.0.starts.spawn(self.clone().start(start));
            }
        }
    }

    /// Starts the others, one after another, when no task is on its way.
    async fn fill_up(&self) {
        loop {
            let _ = tokio::time::timeout(LOOK_EVERY, self.0.wanted.notified()).await;
            while self.is_on() && self.wants_more() {
                let _turn = self.0.background.turn(START_WITHIN).await;
                // Meanwhile it may have been started as urgent.
                let Some(start) = self.next_start(|_, _| true) else { break };
                let _ = self.0.starts.spawn(self.clone().start(start)).await;
            }
        }
    }

    /// Those that have died, that are too many, and that nobody has asked for in a long time.
    fn take_surplus(&self) -> Vec<(Slot, Leaves)> {
        let mut shelves = self.shelves();
        // The dead have no memory.
        let dead = shelves.values_mut().flat_map(Shelf::take_dead);
        let mut surplus: Vec<_> = dead.map(|slot| (slot, self.0.leaving.begin(0))).collect();
        let now = self.now();
        // Once: what goes in this look has its memory until long after it.
        let limits = self.limits(&shelves);
        while let Some((slot, bytes)) = pop_excess_kept(&mut shelves, &limits, now) {
            surplus.push((slot, self.0.leaving.begin(bytes)));
        }
        for (key, wanted) in self.plan(&shelves, limits) {
            let Some(shelf) = shelves.get_mut(&key) else { continue };
            let bytes = shelf.bytes_each();
            let over = shelf.take_over(wanted).into_iter();
            surplus.extend(over.map(|slot| (slot, self.0.leaving.begin(bytes))));
            let idle = Duration::from_secs(self.0.options.pool.idle_seconds);
            if wanted == 0 && shelf.starting == 0 && shelf.demand(now).idle >= idle {
                shelves.remove(&key);
            }
        }
        let waiting = shelves.values().map(Shelf::waiting).sum();
        let starting = shelves.values().map(|shelf| shelf.starting).sum();
        let kept = shelves.values().map(|shelf| shelf.kept.len()).sum();
        metrics::parked(waiting, starting, kept, shelves.len());
        surplus
    }

    /// Whether one could be started.
    fn wants_more(&self) -> bool {
        let (shelves, now) = (self.shelves(), self.now());
        let plan = self.plan(&shelves, self.limits(&shelves));
        plan.iter().any(|(key, wanted)| shelves[key].may_start(*wanted, now))
    }

    /// What is to be started next: where there is least of what should be, of those shelves.
    fn next_start(&self, of: impl Fn(&Shelf, usize) -> bool) -> Option<Start> {
        let (mut shelves, now) = (self.shelves(), self.now());
        if shelves.values().map(|shelf| shelf.starting).sum::<usize>() >= STARTS_AT_ONCE {
            return None;
        }
        let (key, _) = self
            .plan(&shelves, self.limits(&shelves))
            .into_iter()
            .filter(|(key, wanted)| {
                of(&shelves[key], *wanted) && shelves[key].may_start(*wanted, now)
            })
            .min_by_key(|(key, _)| shelves[key].waiting() + shelves[key].starting)?;
        let shelf = shelves.get_mut(&key)?;
        let measure = shelf.wants_measure();
        Some(Start { measure, ..self.begin_start(key, shelf) })
    }

    /// Counts a start, whose memory nobody waits to know.
    pub(super) fn begin_start(&self, key: PoolKey, shelf: &mut Shelf) -> Start {
        shelf.starting += 1;
        let imports = if self.0.options.pool.imports { shelf.imports() } else { Vec::new() };
        Start { key, image: Arc::clone(&shelf.image), imports, measure: false }
    }

    /// How many should wait for each.
    fn plan(&self, shelves: &HashMap<PoolKey, Shelf>, limits: Bounds) -> Vec<(PoolKey, usize)> {
        let now = self.now();
        let bounds = for_anybody(shelves, limits);
        let demands: Vec<Demand> = shelves.values().map(|shelf| shelf.demand(now)).collect();
        shelves.keys().copied().zip(plan(&demands, &bounds)).collect()
    }

    /// The configured limits, and less when the machine is short of memory.
    fn limits(&self, shelves: &HashMap<PoolKey, Shelf>) -> Bounds {
        let options = &self.0.options.pool;
        let held = shelves.values().map(Shelf::bytes).sum();
        let spare = machine_memory::available().map_or(u64::MAX, |available| {
            let leave_free = options.leave_free_mib << 20;
            machine_memory::to_hold(available, held, &self.0.leaving, leave_free)
        });
        Bounds {
            containers: options.max_containers,
            per_dependencies: options.max_per_dependencies,
            bytes: (options.memory_mib << 20).min(spare),
            idle: Duration::from_secs(options.idle_seconds),
        }
    }

    pub(super) async fn start(self, start: Start) {
        let Start { key, image, imports, measure } = start;
        let began = Instant::now();
        let made = self.make(&image, &imports).await;
        let to_measure = made.as_ref().ok().filter(|_| measure);
        let to_measure = to_measure.map(|slot| slot.parked.id().to_owned());
        let measured = match to_measure {
            Some(container) => self.0.engine.memory_of(&container).await,
            None => None,
        };
        metrics::park(made.is_ok(), began.elapsed());
        let now = self.now();
        let mut shelves = self.shelves();
        // It may have been put out meanwhile; then so is this.
        let Some(shelf) = shelves.get_mut(&key).filter(|_| self.is_on()) else { return };
        // A shelf that was made since knows nothing of this start.
        shelf.starting = shelf.starting.saturating_sub(1);
        match made {
            Ok(slot) => shelf.put(slot, measured),
            Err(reason) => {
                let gone = matches!(reason, NotMade::Engine(EngineError::ImageNotFound { .. }));
                shelf.failed(now, !imports.is_empty());
                if gone {
                    image.is_gone();
                    shelves.remove(&key);
                }
                drop(shelves);
                tracing::warn!(
                    error = mecapy_service::chain(&reason),
                    "a container could not be parked"
                );
                if let Some(reason) = reason.is_for_good() {
                    self.turn_off(reason);
                }
            }
        }
        self.look_again();
    }
}

/// Of those that wait for one function's next task, one that is there for too long, or too much, and its memory.
fn pop_excess_kept(
    shelves: &mut HashMap<PoolKey, Shelf>,
    limits: &Bounds,
    now: f64,
) -> Option<(Slot, u64)> {
    let mut shelves: Vec<&mut Shelf> = shelves.values_mut().collect();
    let kept: Vec<Holding> = shelves.iter().map(|shelf| shelf.holding(now)).collect();
    let shelf = &mut shelves[excess(&kept, limits)?];
    Some((shelf.kept.pop_oldest()?, shelf.bytes_each()))
}

/// What is left of the limits for those that wait for anybody.
fn for_anybody(shelves: &HashMap<PoolKey, Shelf>, limits: Bounds) -> Bounds {
    let mut bounds = limits;
    for shelf in shelves.values() {
        bounds.containers = bounds.containers.saturating_sub(shelf.kept.len());
        bounds.bytes = bounds.bytes.saturating_sub(shelf.kept_bytes());
    }
    bounds
}

/// One after another, when there is time for it.
async fn remove(slots: Vec<(Slot, Leaves)>, background: Background) {
    for (slot, leaves) in slots {
        let _turn = background.turn(REMOVE_WITHIN).await;
        slot.remove().await;
        drop(leaves);
    }
}
