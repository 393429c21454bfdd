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
use crate::pool_plan::{Bounds, Demand, Holding, excess, plan};
use crate::shelf::Shelf;
use crate::slot::Slot;
use crate::{machine_memory, metric_definitions as metrics};

/// Demand changes with time as well.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
        tokio::join!(self.keep_up(), self.fill_up());
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
    fn take_surplus(&self) -> Vec<Slot> {
        let mut shelves = self.shelves();
        let mut surplus: Vec<Slot> = shelves.values_mut().flat_map(Shelf::take_dead).collect();
        let now = self.now();
        while let Some(slot) = self.pop_excess_kept(&mut shelves, now) {
            surplus.push(slot);
        }
        for (key, wanted) in self.plan(&shelves) {
            let Some(shelf) = shelves.get_mut(&key) else { continue };
            surplus.extend(shelf.take_over(wanted));
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

    /// Of those that wait for one function's next task, one that is there for too long, or too much.
    fn pop_excess_kept(&self, shelves: &mut HashMap<PoolKey, Shelf>, now: f64) -> Option<Slot> {
        let limits = self.limits(shelves);
        let mut shelves: Vec<&mut Shelf> = shelves.values_mut().collect();
        let kept: Vec<Holding> = shelves.iter().map(|shelf| shelf.holding(now)).collect();
        shelves[excess(&kept, &limits)?].kept.pop_oldest()
    }

    /// Whether one could be started.
    fn wants_more(&self) -> bool {
        let (shelves, now) = (self.shelves(), self.now());
        self.plan(&shelves).iter().any(|(key, wanted)| shelves[key].may_start(*wanted, now))
    }

    /// What is to be started next: where there is least of what should be, of those shelves.
    fn next_start(&self, of: impl Fn(&Shelf, usize) -> bool) -> Option<Start> {
        let (mut shelves, now) = (self.shelves(), self.now());
        if shelves.values().map(|shelf| shelf.starting).sum::<usize>() >= STARTS_AT_ONCE {
            return None;
        }
        let (key, _) = self
            .plan(&shelves)
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
    fn plan(&self, shelves: &HashMap<PoolKey, Shelf>) -> Vec<(PoolKey, usize)> {
        let now = self.now();
        let bounds = self.bounds(shelves);
        let demands: Vec<Demand> = shelves.values().map(|shelf| shelf.demand(now)).collect();
        shelves.keys().copied().zip(plan(&demands, &bounds)).collect()
    }

    /// What is left of the limits for those that wait for anybody.
    fn bounds(&self, shelves: &HashMap<PoolKey, Shelf>) -> Bounds {
        let mut bounds = self.limits(shelves);
        for shelf in shelves.values() {
            bounds.containers = bounds.containers.saturating_sub(shelf.kept.len());
            bounds.bytes = bounds.bytes.saturating_sub(shelf.kept_bytes());
        }
        bounds
    }

    /// The configured limits, and less when the machine is short of memory.
    fn limits(&self, shelves: &HashMap<PoolKey, Shelf>) -> Bounds {
        let options = &self.0.options.pool;
        let held = shelves.values().map(Shelf::bytes).sum();
        let spare = machine_memory::available().map_or(u64::MAX, |available| {
            machine_memory::to_hold(available, held, options.leave_free_mib << 20)
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

/// One after another, when there is time for it.
async fn remove(slots: Vec<Slot>, background: Background) {
    for slot in slots {
        let _turn = background.turn(REMOVE_WITHIN).await;
        slot.remove().await;
    }
}
