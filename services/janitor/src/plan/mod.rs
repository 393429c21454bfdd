//! The plan: what becomes of each image, by which rule, and why. A pure function of what the registry holds, what
//! our records say is needed, the policies, and the time.
//!
//! Never deleted, whatever a policy says:
//! 1. what a kept tag leads to;
//! 2. what a kept index holds, over any number of levels;
//! 3. what refers to a kept image (SBOM, report, provenance), by `subject` or by the tag `sha256-<hex>`;
//! 4. the image of a queued or running task, of a build in flight, of a live function's current version;
//! 5. the base image of a live function;
//! 6. what is younger than 24 hours, or was put back less than 30 days ago;
//! 7. anything in a repository that no policy names.
//!
//! A plan that was applied and made again changes nothing. What it frees is exact: the bytes of manifests and blobs
//! that nothing kept holds, in the whole registry.
//!
//! The way through: [`Snapshot`] and [`Usage`] → `decide` (each image by its own tags) → `keep` (what the kept ones
//! need, what goes with the others) → `reclaim` (bytes) → [`Plan`].

#[cfg(test)]
mod cases;
mod decide;
mod explain;
mod keep;
#[cfg(test)]
pub(crate) mod model;
mod policy;
#[cfg(test)]
mod properties;
mod reclaim;
mod rule;
mod snapshot;
mod tags;
mod usage;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

pub use policy::{Policies, Policy};
pub use reclaim::{Reclaim, reclaim};
pub use rule::Rule;
pub use snapshot::{ImageId, Seen, Snapshot};
pub(crate) use tags::Tag;
pub use usage::{Function, Need, Usage, function_of};

/// What becomes of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub is_deleted: bool,
    pub rule: Rule,
    /// What the rule's sentence needs: days, a rank, another image.
    pub(crate) detail: u32,
}

/// A tag that goes elsewhere, or away, while the image it leads to stays or goes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagChange {
    pub image: ImageId,
    pub tag: String,
    /// None: the tag is removed.
    pub moved_to: Option<ImageId>,
    pub rule: Rule,
    pub(crate) detail: u32,
}

/// A manifest that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub image: ImageId,
    /// Those of depth 0 go first.
    pub depth: u32,
    /// What must be gone before: indexes that hold it, the image that it refers to.
    pub owners: Vec<ImageId>,
}

#[derive(Debug, Default)]
pub struct Plan {
    /// One for each image of the snapshot.
    pub decisions: Vec<Decision>,
    pub tag_changes: Vec<TagChange>,
    /// By depth.
    pub removals: Vec<Removal>,
    /// Images in repositories that some policy names.
    pub under_policy: usize,
    pub reclaim: Reclaim,
}

/// Makes the plan.
pub fn plan(snapshot: &Snapshot, usage: &Usage, policies: &Policies, now: DateTime<Utc>) -> Plan {
    let mut decided = decide::decide(snapshot, usage, policies, now);
    let removals = keep::settle(snapshot, &mut decided);
    let decisions = decided.decisions;
    let reclaim = reclaim(snapshot, |image| decisions[image.index()].is_deleted);
    Plan {
        decisions,
        tag_changes: decided.tag_changes,
        removals,
        under_policy: decided.under_policy,
        reclaim,
    }
}

impl Plan {
    pub fn decision(&self, image: ImageId) -> Decision {
        self.decisions[image.index()]
    }

    /// Deleted images by policy and rule, as `functions/unused`.
    pub fn deleted_by_policy(
        &self,
        snapshot: &Snapshot,
        policies: &Policies,
    ) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for removal in &self.removals {
            let policy =
                policies.of(snapshot.repository(removal.image)).map_or("", |(name, _)| name);
            let rule = self.decision(removal.image).rule;
            *counts.entry(format!("{policy}/{}", rule.as_str())).or_default() += 1;
        }
        counts
    }

    /// How many images each rule keeps.
    pub fn kept_by_rule(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for decision in self.decisions.iter().filter(|decision| !decision.is_deleted) {
            *counts.entry(decision.rule.as_str()).or_default() += 1;
        }
        counts
    }

    /// Why the plan is too much for one run, if it deletes more than this share of the images that policies name,
    /// or of the bytes.
    pub fn exceeds(&self, percent: u32) -> Option<String> {
        let is_more = |part: u64, whole: u64| {
            u128::from(part) * 100 > u128::from(whole) * u128::from(percent)
        };
        let (deleted, of) = (self.removals.len() as u64, self.under_policy as u64);
        if is_more(deleted, of) {
            return Some(format!(
                "{deleted} of {of} images would be deleted, more than {percent} %: look at the plan, then confirm it"
            ));
        }
        let Reclaim { freed_bytes, total_bytes } = self.reclaim;
        is_more(freed_bytes, total_bytes).then(|| {
            format!(
                "{freed_bytes} of {total_bytes} bytes would be freed, more than {percent} %: look at the plan, then confirm it"
            )
        })
    }
}
