//! The parked containers for one set of dependencies, and who asked for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::images::Held;
use crate::kept::Kept;
use crate::pool::{Claims, Coming};
use crate::pool_plan::{Demand, Holding, Rate};
use crate::slot::Slot;

/// Until one was measured.
const ASSUMED_BYTES: u64 = 24 << 20;
/// One of so many is measured.
const MEASURED_OF: u32 = 8;
/// Whose imports are compared.
const REMEMBERED_TASKS: usize = 8;
const FIRST_PAUSE_SECONDS: f64 = 2.0;
const LONGEST_PAUSE_SECONDS: f64 = 300.0;

pub(crate) struct Shelf {
    /// An image with these dependencies.
    pub image: Arc<Held>,
    /// Containers that are being started.
    pub starting: usize,
    waiting: VecDeque<Slot>,
    /// Beside those that wait for anybody.
    pub kept: Kept,
    claims: Claims,
    rate: Rate,
    last_asked: f64,
    /// The leading imports of the functions that asked last.
    asked_imports: VecDeque<Vec<String>>,
    /// Ahead of time, something in them goes wrong.
    imports_fail: bool,
    bytes_each: u64,
    put: u32,
    failures: i32,
    not_before: f64,
}

impl Shelf {
    pub(crate) fn new(image: Arc<Held>) -> Self {
        Self {
            image,
            starting: 0,
            waiting: VecDeque::new(),
            kept: Kept::default(),
            claims: Claims::new(),
            rate: Rate::default(),
            last_asked: 0.0,
            asked_imports: VecDeque::new(),
            imports_fail: false,
            bytes_each: ASSUMED_BYTES,
            put: 0,
            failures: 0,
            not_before: 0.0,
        }
    }

    /// A task asked, whose function begins with these imports.
    pub(crate) fn ask(&mut self, now: f64, imports: &[String]) {
        self.rate.count(now);
        self.last_asked = now;
        self.asked_imports.push_back(imports.to_vec());
        if self.asked_imports.len() > REMEMBERED_TASKS {
            self.asked_imports.pop_front();
        }
    }

    /// The one that waits longest, of those that have imported nothing where early imports are not wanted; what has
    /// died meanwhile is passed over.
    pub(crate) fn take(&mut self, early_imports: bool) -> Option<Slot> {
        loop {
            let fits = |slot: &Slot| early_imports || !slot.has_imports;
            let found = self.waiting.iter().position(fits)?;
            let mut slot = self.waiting.remove(found)?;
            if slot.parked.is_waiting() {
                return Some(slot);
            }
        }
    }

    /// The promise of a container that is being started, or will be ([`Self::owes_a_start`]). None: the last starts
    /// failed, and it is too early to try again.
    pub(crate) fn claim(&mut self, now: f64) -> Option<Coming> {
        self.claims.retain(|claim| !claim.is_closed());
        if now < self.not_before && self.claims.len() >= self.starting {
            return None;
        }
        let (claim, coming) = oneshot::channel();
        self.claims.push_back(claim);
        Some(coming)
    }

    /// Whether more was promised than is being started.
    pub(crate) fn owes_a_start(&self) -> bool {
        self.claims.len() > self.starting
    }

    pub(crate) fn put(&mut self, mut slot: Slot, bytes: Option<u64>) {
        self.failures = 0;
        self.put = self.put.wrapping_add(1);
        self.bytes_each = bytes.filter(|bytes| *bytes > 0).unwrap_or(self.bytes_each);
        while let Some(claim) = self.claims.pop_front() {
            match claim.send(slot) {
                Ok(()) => return,
                Err(back) => slot = back,
            }
        }
        slot.path = "parked";
        self.waiting.push_back(slot);
    }

    /// A start failed: who waits for it goes on without, and the next try comes later.
    pub(crate) fn failed(&mut self, now: f64, had_imports: bool) {
        self.claims.pop_front();
        self.imports_fail |= had_imports;
        let pause = FIRST_PAUSE_SECONDS * 2_f64.powi(self.failures.min(10));
        self.failures += 1;
        self.not_before = now + pause.min(LONGEST_PAUSE_SECONDS);
    }

    pub(crate) fn take_dead(&mut self) -> Vec<Slot> {
        let mut dead = self.kept.take_dead();
        for mut slot in std::mem::take(&mut self.waiting) {
            if slot.parked.is_waiting() {
                self.waiting.push_back(slot);
            } else {
                dead.push(slot);
            }
        }
        dead
    }

    /// What waits beyond `wanted`, oldest first.
    pub(crate) fn take_over(&mut self, wanted: usize) -> Vec<Slot> {
        let over = self.waiting.len().saturating_sub(wanted);
        self.waiting.drain(..over).collect()
    }

    /// Whether there is less than half of what should be, beside what is promised to tasks that wait: the next task, or
    /// the one after it, may find none.
    pub(crate) fn is_short(&self, wanted: usize) -> bool {
        let promised = self.claims.iter().filter(|claim| !claim.is_closed()).count();
        self.waiting.len() + self.starting < promised + wanted.div_ceil(2)
    }

    /// Whether the next container's memory is to be measured: to ask costs the engine something, and they are all alike.
    pub(crate) fn wants_measure(&self) -> bool {
        self.put.is_multiple_of(MEASURED_OF)
    }

    pub(crate) fn may_start(&self, wanted: usize, now: f64) -> bool {
        self.waiting.len() + self.starting < wanted && now >= self.not_before
    }

    /// The imports that all functions share which asked last.
    pub(crate) fn imports(&self) -> Vec<String> {
        if self.imports_fail {
            return Vec::new();
        }
        shared(&self.asked_imports)
    }

    pub(crate) fn demand(&self, now: f64) -> Demand {
        Demand {
            per_second: self.rate.per_second(now),
            idle: Duration::from_secs_f64((now - self.last_asked).max(0.0)),
            bytes: self.bytes_each,
            held: self.waiting.len() + self.starting,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What one container takes.
    pub(crate) fn bytes_each(&self) -> u64 {
        self.bytes_each
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_each.saturating_mul((self.waiting.len() + self.kept.len()) as u64)
    }

    pub(crate) fn kept_bytes(&self) -> u64 {
        self.bytes_each.saturating_mul(self.kept.len() as u64)
    }

    /// What is kept for single functions.
    pub(crate) fn holding(&self, now: f64) -> Holding {
        let age = |since: f64| Duration::from_secs_f64((now - since).max(0.0));
        let (count, bytes) = (self.kept.len(), self.kept_bytes());
        Holding { count, bytes, oldest: self.kept.oldest().map(age) }
    }
}

fn shared(all: &VecDeque<Vec<String>>) -> Vec<String> {
    let Some(newest) = all.back() else { return Vec::new() };
    newest.iter().filter(|name| all.iter().all(|imports| imports.contains(name))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_all_import_is_imported_ahead() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all = VecDeque::from([list(&["numpy", "json"]), list(&["json", "sys", "numpy"])]);
        assert_eq!(shared(&all), ["json", "numpy"]);
        assert_eq!(shared(&VecDeque::from([list(&["numpy"]), list(&[])])), [""; 0]);
        assert_eq!(shared(&VecDeque::new()), [""; 0]);
    }
}
