//! What the kept ones need stays too, over any number of levels; what only belonged to the others goes with them.

use super::decide::{Decided, Own};
use super::{Decision, ImageId, Removal, Rule, Snapshot};

/// Longer chains of owners than this only come from manifests that were made up.
const MAX_DEPTH: u32 = 64;

/// Settles what follows others, and lists what goes, in the order in which it may.
pub(super) fn settle(snapshot: &Snapshot, decided: &mut Decided) -> Vec<Removal> {
    decided.edges.sort_unstable();
    decided.edges.dedup();
    let edges = std::mem::take(&mut decided.edges);
    let owners_that = |decided: &Decided, own: Own| -> Vec<ImageId> {
        edges.iter().map(|(owner, _)| *owner).filter(|id| decided.own[id.index()] == own).collect()
    };
    let kept = owners_that(decided, Own::Kept);
    spread(&edges, kept, decided, |own| own != Own::Kept, Own::Kept, Rule::NeededBy);
    let doomed = owners_that(decided, Own::Doomed);
    spread(&edges, doomed, decided, |own| own == Own::Follows, Own::Doomed, Rule::GoesAlong);
    // Only a circle of owners is left: no digest can be in one, but a made-up tag can.
    let unclear: Vec<ImageId> =
        snapshot.ids().filter(|id| decided.own[id.index()] == Own::Follows).collect();
    for id in &unclear {
        decided.own[id.index()] = Own::Kept;
    }
    spread(&edges, unclear, decided, |own| own != Own::Kept, Own::Kept, Rule::NeededBy);
    // What stays for another's sake alone keeps the newest of its tags. Left for a later plan, the others would go in
    // that one: the versions that stand between them now are gone then.
    let needed = std::mem::take(&mut decided.tag_changes_if_needed).into_iter();
    let needed = needed.filter(|change| decided.own[change.image.index()] == Own::Kept);
    decided.tag_changes.extend(needed);
    removals(snapshot, &edges, decided)
}

/// Hands a fate on from owners to what depends on them.
fn spread(
    edges: &[(ImageId, ImageId)],
    mut from: Vec<ImageId>,
    decided: &mut Decided,
    takes: impl Fn(Own) -> bool,
    fate: Own,
    rule: Rule,
) {
    while let Some(owner) = from.pop() {
        let first = edges.partition_point(|(other, _)| *other < owner);
        for (_, dependent) in edges[first..].iter().take_while(|(other, _)| *other == owner) {
            if takes(decided.own[dependent.index()]) {
                decided.own[dependent.index()] = fate;
                decided.decisions[dependent.index()] =
                    Decision { is_deleted: fate == Own::Doomed, rule, detail: owner.0 };
                from.push(*dependent);
            }
        }
    }
}

fn removals(snapshot: &Snapshot, edges: &[(ImageId, ImageId)], decided: &Decided) -> Vec<Removal> {
    let goes = |id: ImageId| decided.own[id.index()] == Own::Doomed;
    let mut inner: Vec<(ImageId, ImageId)> = edges
        .iter()
        .filter(|(owner, dependent)| owner != dependent && goes(*owner) && goes(*dependent))
        .map(|(owner, dependent)| (*dependent, *owner))
        .collect();
    inner.sort_unstable();
    let mut depths = std::collections::HashMap::<ImageId, u32>::new();
    for _ in 0..MAX_DEPTH {
        let mut has_changed = false;
        for (dependent, owner) in &inner {
            let below = depths.get(owner).copied().unwrap_or_default() + 1;
            let depth = depths.entry(*dependent).or_default();
            if *depth < below {
                *depth = below;
                has_changed = true;
            }
        }
        if !has_changed {
            break;
        }
    }
    let depth_of = |id: ImageId| depths.get(&id).copied().unwrap_or_default();
    let mut removals: Vec<Removal> = snapshot
        .ids()
        .filter(|id| goes(*id))
        .map(|image| {
            let depth = depth_of(image);
            let first = inner.partition_point(|(dependent, _)| *dependent < image);
            let owners = inner[first..].iter().take_while(|(dependent, _)| *dependent == image);
            // In a circle, one has to go first.
            let owners = owners.map(|(_, owner)| *owner).filter(|owner| depth_of(*owner) < depth);
            Removal { image, depth, owners: owners.collect() }
        })
        .collect();
    removals.sort_by_key(|removal| removal.depth);
    removals
}
