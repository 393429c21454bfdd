//! The plan as rows, in the order in which it is applied.

use std::collections::HashSet;

use mecapy_store::cleanup_items::NewItem;

use crate::plan::{ImageId, Plan, Policies, Snapshot};

/// Tags that move, tags that go, then images, owners first.
pub(crate) fn planned_items(snapshot: &Snapshot, policies: &Policies, plan: &Plan) -> Vec<NewItem> {
    const FIRST_REMOVAL: u32 = 2;
    let item = |image: ImageId, depth: u32| NewItem {
        depth: i32::try_from(depth).unwrap_or(i32::MAX),
        repository: snapshot.repository(image).to_owned(),
        digest: snapshot.digest(image).to_string(),
        action: "delete",
        tags: Vec::new(),
        moved_to: None,
        owners: Vec::new(),
        policy: policies.of(snapshot.repository(image)).map_or("", |(name, _)| name).to_owned(),
        rule: "",
        reason: String::new(),
    };
    let mut items: Vec<NewItem> = plan
        .tag_changes
        .iter()
        .map(|change| NewItem {
            action: if change.moved_to.is_some() { "move_tag" } else { "remove_tag" },
            tags: vec![change.tag.clone()],
            moved_to: change.moved_to.map(|to| snapshot.digest(to).to_string()),
            rule: change.rule.as_str(),
            reason: plan.reason_of_change(snapshot, policies, change),
            ..item(change.image, u32::from(change.moved_to.is_none()))
        })
        .collect();
    items.sort_by_key(|item| item.depth);
    let changed: HashSet<(ImageId, &str)> =
        plan.tag_changes.iter().map(|change| (change.image, change.tag.as_str())).collect();
    items.extend(plan.removals.iter().map(|removal| {
        let has_moved = |tag: &str| changed.contains(&(removal.image, tag));
        NewItem {
            tags: snapshot
                .tags(removal.image)
                .filter(|tag| !has_moved(tag))
                .map(str::to_owned)
                .collect(),
            owners: removal
                .owners
                .iter()
                .map(|owner| snapshot.digest(*owner).to_string())
                .collect(),
            rule: plan.decision(removal.image).rule.as_str(),
            reason: plan.reason(snapshot, policies, removal.image),
            ..item(removal.image, FIRST_REMOVAL + removal.depth)
        }
    }));
    items
}
