//! Containers that have run tasks of one function and wait for its next ones, where that function asks for it. The oldest
//! go first.

use std::collections::VecDeque;

use mecapy_registry::Digest;

use crate::slot::Slot;

#[derive(Debug, Default)]
pub(crate) struct Kept(VecDeque<One>);

#[derive(Debug)]
struct One {
    /// The image of the function.
    image: Digest,
    slot: Slot,
    since: f64,
}

impl Kept {
    pub(crate) fn put(&mut self, image: Digest, slot: Slot, now: f64) {
        self.0.push_back(One { image, slot, since: now });
    }

    /// The one that ran this function last; those that have died meanwhile are passed over.
    pub(crate) fn take(&mut self, image: Digest) -> Option<Slot> {
        loop {
            let found = self.0.iter().rposition(|one| one.image == image)?;
            let mut slot = self.0.remove(found)?.slot;
            if slot.parked.is_waiting() {
                return Some(slot);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the oldest came.
    pub(crate) fn oldest(&self) -> Option<f64> {
        self.0.front().map(|one| one.since)
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<Slot> {
        self.0.pop_front().map(|one| one.slot)
    }

    pub(crate) fn take_dead(&mut self) -> Vec<Slot> {
        let mut dead = Vec::new();
        for mut one in std::mem::take(&mut self.0) {
            if one.slot.parked.is_waiting() {
                self.0.push_back(one);
            } else {
                dead.push(one.slot);
            }
        }
        dead
    }
}
