//! How many containers wait for which dependencies. Pure.
//!
//! Invariants:
//! 1. Never more in all than the limit of containers or of memory allows.
//! 2. Dependencies without a task for long have none.
//! 3. While there is room, each of the others has one before any has a second.
//! 4. Of those that are kept for one function's next task, none is kept for long, and all together have at most half of
//!    the limits: the other half is for those that any function may have.

use std::time::Duration;

/// How long it takes to put another in the place of one that was taken, with some to spare: 0.3 to 0.7 s were
/// measured on a busy machine.
const REFILL_SECONDS: f64 = 1.5;
/// How long one is kept for the next task of its function, which asks for that because it has many.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Demand is forgotten at this pace.
const MEMORY_SECONDS: f64 = 30.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub containers: usize,
    pub per_dependencies: usize,
    pub bytes: u64,
    pub idle: Duration,
}

/// What is asked of one set of dependencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Demand {
    pub per_second: f64,
    pub idle: Duration,
    /// What one container takes.
    pub bytes: u64,
    /// How many wait or are being started.
    pub held: usize,
}

/// What is kept for the next tasks of single functions, of one set of dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub count: usize,
    pub bytes: u64,
    /// How long the oldest has been kept. None: there is none.
    pub oldest: Option<Duration>,
}

/// Tasks per second, of the last half minute above all.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rate {
    count: f64,
    /// Seconds, on any clock that goes on.
    at: f64,
}

impl Rate {
    pub(crate) fn count(&mut self, now: f64) {
        self.count = self.decayed(now) + 1.0;
        self.at = now;
    }

    pub(crate) fn per_second(&self, now: f64) -> f64 {
        self.decayed(now) / MEMORY_SECONDS
    }

    fn decayed(&self, now: f64) -> f64 {
        self.count * (-(now - self.at).max(0.0) / MEMORY_SECONDS).exp()
    }
}

/// How many each should have, in the order of `demands`.
pub(crate) fn plan(demands: &[Demand], bounds: &Bounds) -> Vec<usize> {
    let wanted: Vec<usize> = demands.iter().map(|demand| wanted(demand, bounds)).collect();
    // Who has most to do first, then who had something to do last.
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_by(|one, two| {
        let (one, two) = (&demands[*one], &demands[*two]);
        two.per_second.total_cmp(&one.per_second).then(one.idle.cmp(&two.idle))
    });
    let mut given = vec![0; demands.len()];
    let (mut containers, mut bytes) = (0, 0_u64);
    for round in 0..bounds.per_dependencies {
        for &index in &order {
            let total = bytes.saturating_add(demands[index].bytes);
            if wanted[index] > round && containers < bounds.containers && total <= bounds.bytes {
                given[index] += 1;
                containers += 1;
                bytes = total;
            }
        }
    }
    given
}

/// Whose oldest is to go: the oldest of all, where it is there for too long or they are too many. None: all may stay.
pub(crate) fn excess(kept: &[Holding], limits: &Bounds) -> Option<usize> {
    let count: usize = kept.iter().map(|holding| holding.count).sum();
    let bytes = kept.iter().fold(0_u64, |sum, holding| sum.saturating_add(holding.bytes));
    let (index, age) = kept
        .iter()
        .enumerate()
        .filter_map(|(index, holding)| Some((index, holding.oldest?)))
        .max_by_key(|(_, age)| *age)?;
    let is_stale = age >= limits.idle.min(KEPT_FOR);
    let is_excess = is_stale || count > limits.containers / 2 || bytes > limits.bytes / 2;
    is_excess.then_some(index)
}

fn wanted(demand: &Demand, bounds: &Bounds) -> usize {
    if demand.idle >= bounds.idle {
        return 0;
    }
    // One for the next task, and those that come until it is replaced.
    let more = (demand.per_second * REFILL_SECONDS).ceil();
    let needed = 1 + more as usize;
    // One too many stays: what is asked goes up and down, and to start another costs more than to keep it.
    let kept = demand.held.min(needed + 1);
    needed.max(kept).min(bounds.per_dependencies)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds =
        Bounds { containers: 10, per_dependencies: 4, bytes: 100, idle: Duration::from_secs(60) };

    fn demand(per_second: f64, idle: u64, bytes: u64) -> Demand {
        Demand { per_second, idle: Duration::from_secs(idle), bytes, held: 0 }
    }

    #[test]
    fn demand_decides_and_limits_hold() {
        assert_eq!(plan(&[demand(0.0, 0, 1)], &BOUNDS), [1]);
        assert_eq!(plan(&[demand(1.0, 0, 1)], &BOUNDS), [3]);
        assert_eq!(plan(&[demand(99.0, 0, 1)], &BOUNDS), [4]);
        assert_eq!(plan(&[demand(99.0, 60, 1)], &BOUNDS), [0]);
        assert_eq!(plan(&[demand(9.0, 0, 40), demand(0.1, 5, 40)], &BOUNDS), [1, 1]);
        assert_eq!(plan(&[demand(9.0, 0, 101)], &BOUNDS), [0]);
        for (held, kept) in [(0, 2), (2, 2), (3, 3), (4, 3)] {
            assert_eq!(plan(&[Demand { held, ..demand(0.1, 0, 1) }], &BOUNDS), [kept]);
        }
    }

    #[test]
    fn a_rate_rises_with_tasks_and_is_forgotten() {
        let mut rate = Rate::default();
        for task in 0..300 {
            rate.count(f64::from(task));
        }
        assert!((0.9..1.1).contains(&rate.per_second(300.0)), "{rate:?}");
        assert!(rate.per_second(600.0) < 0.001);
    }

    /// `ages` in seconds.
    fn kept(ages: &[u64], bytes_each: u64) -> Holding {
        Holding {
            count: ages.len(),
            bytes: ages.len() as u64 * bytes_each,
            oldest: ages.iter().max().map(|age| Duration::from_secs(*age)),
        }
    }

    #[test]
    fn what_is_kept_goes_after_its_time_and_where_it_is_more_than_half() {
        let limits = Bounds { idle: Duration::from_secs(600), ..BOUNDS };
        let none = kept(&[], 1);
        assert_eq!(excess(&[], &limits), None);
        assert_eq!(excess(&[none, kept(&[0, 59], 1), kept(&[1], 1)], &limits), None);
        assert_eq!(excess(&[none, kept(&[0], 1), kept(&[60, 1], 1)], &limits), Some(2));
        let short = Bounds { idle: Duration::from_secs(5), ..limits };
        assert_eq!(excess(&[kept(&[5], 1)], &short), Some(0), "no longer than what waits");
        // Half of ten containers, and of a hundred bytes.
        assert_eq!(excess(&[kept(&[1, 2], 1), kept(&[3, 4, 5], 1)], &limits), None);
        assert_eq!(excess(&[kept(&[1, 2, 9], 1), kept(&[3, 4, 5], 1)], &limits), Some(0));
        assert_eq!(excess(&[kept(&[1], 25), kept(&[2], 25)], &limits), None);
        assert_eq!(excess(&[kept(&[1], 25), kept(&[2], 26)], &limits), Some(1));
        let one = Bounds { containers: 1, ..limits };
        assert_eq!(excess(&[kept(&[0], 1)], &one), Some(0), "the one place is anybody's");
    }

    proptest! {
        #[test]
        fn the_oldest_go_until_what_is_kept_is_within_its_half(
            ages in prop::collection::vec(prop::collection::vec(0u64..100, 0..6), 0..6),
            each in 0u64..30, containers in 1usize..20, bytes in 0u64..200,
        ) {
            let limits = Bounds { containers, bytes, ..BOUNDS };
            let mut ages = ages;
            let holdings = |ages: &[Vec<u64>]| ages.iter().map(|ages| kept(ages, each)).collect::<Vec<_>>();
            while let Some(index) = excess(&holdings(&ages), &limits) {
                let oldest = ages.iter().flatten().copied().max();
                let place = ages[index].iter().position(|age| Some(*age) == oldest);
                prop_assert!(place.is_some(), "it is not the oldest of all");
                ages[index].remove(place.unwrap());
            }
            let left: Vec<u64> = ages.into_iter().flatten().collect();
            prop_assert!(left.len() <= containers / 2 && left.len() as u64 * each <= bytes / 2);
            prop_assert!(left.iter().all(|age| *age < 60));
        }

        #[test]
        fn the_invariants_hold(
            demands in prop::collection::vec((0.0..20.0, 0u64..90, 0u64..60, 0usize..9), 0..20),
            containers in 1usize..20, per in 1usize..6, bytes in 0u64..200,
        ) {
            let demands: Vec<Demand> = demands
                .into_iter()
                .map(|(rate, idle, bytes, held)| Demand { held, ..demand(rate, idle, bytes) })
                .collect();
            let bounds = Bounds { containers, per_dependencies: per, bytes, ..BOUNDS };
            let given = plan(&demands, &bounds);
            let used: u64 = given.iter().zip(&demands).map(|(n, d)| *n as u64 * d.bytes).sum();
            prop_assert!(given.iter().sum::<usize>() <= containers && used <= bytes);
            for (given, demand) in given.iter().zip(&demands) {
                prop_assert!(*given <= per);
                prop_assert!(demand.idle < bounds.idle || *given == 0);
            }
            let room = given.iter().sum::<usize>() < containers;
            let starved = given.iter().zip(&demands).any(|(given, demand)| {
                *given == 0 && demand.idle < bounds.idle && used + demand.bytes <= bytes
            });
            prop_assert!(!(room && starved));
        }
    }
}
