//! Single cases, one rule each.

use chrono::{DateTime, Duration, Utc};

use super::model::{Model, digest, image, now};
use super::{Function, Need, Plan, Policies, Rule, Snapshot, Usage, plan};

const FUNCTION: &str = "mecapy/functions/user-a-func-1";
const BASE: &str = "mecapy/base/python";

fn days_ago(days: i64) -> DateTime<Utc> {
    now() - Duration::days(days)
}

fn planned(model: &Model, usage: &Usage) -> (Snapshot, Plan) {
    let snapshot = model.snapshot();
    let plan = plan(&snapshot, usage, &Policies::default(), now());
    (snapshot, plan)
}

/// Number of the image → whether it is deleted, and by which rule.
fn fate(snapshot: &Snapshot, plan: &Plan, number: u32) -> (bool, Rule) {
    let id = snapshot.ids().find(|id| snapshot.digest(*id) == digest(number)).unwrap();
    (plan.decision(id).is_deleted, plan.decision(id).rule)
}

fn live(current: Option<u32>) -> Usage {
    let mut usage = Usage::default();
    let function = Function { is_live: true, current: current.map(digest), is_publishing: false };
    usage.functions.insert(1, function);
    usage.digests.extend(current.map(|current| (digest(current), Need::Current)));
    usage
}

#[test]
fn images_of_a_deleted_function_go_and_those_of_an_unknown_one_stay() {
    let images =
        vec![image(1).tagged(&["v1-a"]).aged(2.0), image(2).tagged(&["v2-a", "latest"]).aged(2.0)];
    let model = Model::of(FUNCTION, images);
    let mut usage = Usage::default();
    let (snapshot, plan) = planned(&model, &usage);
    assert_eq!(fate(&snapshot, &plan, 1), (false, Rule::WithinPolicy));
    usage.functions.insert(1, Function::default());
    let (snapshot, plan) = planned(&model, &usage);
    for number in [1, 2] {
        assert_eq!(fate(&snapshot, &plan, number), (true, Rule::DeletedFunction));
    }
    let id = snapshot.ids().next().unwrap();
    assert_eq!(plan.reason(&snapshot, &Policies::default(), id), "its function 1 was deleted");
    assert_eq!(
        plan.deleted_by_policy(&snapshot, &Policies::default()),
        [("functions/deleted-function".to_owned(), 2)].into()
    );
}

#[test]
fn no_record_counts_from_the_day_it_was_first_seen() {
    let images = [89.9, 90.0, 300.0, 300.0, 2.0];
    let images = images.iter().enumerate().map(|(number, age)| {
        let number = number as u32 + 1;
        image(number).tagged(&[&format!("v{number}-a")]).aged(*age)
    });
    let model = Model::of(FUNCTION, images.collect());
    let mut usage = live(None);
    usage.last_used.insert(digest(3), days_ago(89));
    usage.last_used.insert(digest(4), days_ago(90));
    // Seen for the first time two days ago, but our own record knows it longer.
    usage.last_used.insert(digest(5), days_ago(91));
    let (snapshot, plan) = planned(&model, &usage);
    let gone: Vec<bool> = (1..=5).map(|number| fate(&snapshot, &plan, number).0).collect();
    assert_eq!(gone, [false, true, false, true, true]);
}

#[test]
fn a_push_that_is_newer_than_the_last_use_counts() {
    let mut pushed = image(1).tagged(&["v1-a"]);
    pushed.manifest.pushed_at = Some(days_ago(3));
    let mut usage = live(None);
    usage.last_used.insert(digest(1), days_ago(200));
    let (snapshot, plan) = planned(&Model::of(FUNCTION, vec![pushed]), &usage);
    assert_eq!(fate(&snapshot, &plan, 1), (false, Rule::WithinPolicy));
}

#[test]
fn versions_beyond_the_ten_newest_go_but_not_the_current_one() {
    let images = (1..=13).map(|n| image(n).tagged(&[&format!("v{n}-a")]).aged(5.0)).collect();
    let (snapshot, plan) = planned(&Model::of(FUNCTION, images), &live(Some(2)));
    assert_eq!(fate(&snapshot, &plan, 1), (true, Rule::OldVersion));
    assert_eq!(fate(&snapshot, &plan, 2), (false, Rule::Current));
    assert_eq!(fate(&snapshot, &plan, 3), (true, Rule::OldVersion));
    assert_eq!(fate(&snapshot, &plan, 4), (false, Rule::WithinPolicy));
    let id = snapshot.ids().next().unwrap();
    let reason = plan.reason(&snapshot, &Policies::default(), id);
    assert_eq!(reason, "its version is number 13 from the newest; 10 are kept");
}

#[test]
fn an_old_tag_of_a_digest_that_a_kept_tag_leads_to_goes_alone() {
    let mut images: Vec<_> =
        (2..=11).map(|n| image(n).tagged(&[&format!("v{n}-a")]).aged(5.0)).collect();
    images.push(image(1).tagged(&["v1-a", "v12-a"]).aged(5.0));
    let model = Model::of(FUNCTION, images);
    let (snapshot, plan) = planned(&model, &live(None));
    assert_eq!(fate(&snapshot, &plan, 1), (false, Rule::Tagged));
    assert_eq!(plan.tag_changes.len(), 1);
    let change = &plan.tag_changes[0];
    assert_eq!(
        (change.tag.as_str(), change.moved_to, change.rule),
        ("v1-a", None, Rule::OldVersion)
    );
    // A task that names it by that tag keeps the tag too.
    let mut usage = live(None);
    usage.tags.push((FUNCTION.to_owned(), "v1-a".to_owned(), Need::Task));
    let (snapshot, plan) = planned(&model, &usage);
    assert_eq!(fate(&snapshot, &plan, 1), (false, Rule::Task));
    assert_eq!(plan.tag_changes, []);
}

#[test]
fn latest_moves_to_the_newest_version_that_is_ready_and_what_it_leaves_goes_when_it_is_stale() {
    let model = |age: f64| {
        Model::of(
            FUNCTION,
            vec![image(1).tagged(&["latest"]).aged(age), image(2).tagged(&["v2-a"]).aged(5.0)],
        )
    };
    let (snapshot, plan) = planned(&model(31.0), &live(Some(2)));
    let ids: Vec<_> = snapshot.ids().collect();
    let change = &plan.tag_changes[0];
    assert_eq!(
        (change.image, change.tag.as_str(), change.moved_to),
        (ids[0], "latest", Some(ids[1]))
    );
    assert_eq!(fate(&snapshot, &plan, 1), (true, Rule::StaleLatest));
    let (snapshot, plan) = planned(&model(29.0), &live(Some(2)));
    assert_eq!(plan.tag_changes.len(), 1);
    assert_eq!(fate(&snapshot, &plan, 1), (false, Rule::WithinPolicy));
    // A build that is publishing moves it itself.
    let mut usage = live(Some(2));
    usage.functions.get_mut(&1).unwrap().is_publishing = true;
    assert_eq!(planned(&model(31.0), &usage).1.tag_changes, []);
}

#[test]
fn referrers_and_children_go_along_with_what_they_belong_to_and_after_it() {
    let schema = format!("sha256-{}", digest(1).hex());
    let images = vec![
        image(4).aged(5.0),
        image(3).tagged(&[&schema]).index_of(&[4]).aged(5.0),
        image(1).tagged(&["v1-a"]).index_of(&[2]).aged(5.0),
        image(2).aged(5.0),
        image(5).referring_to(2).aged(5.0),
    ];
    let model = Model::of(FUNCTION, images);
    let mut usage = Usage::default();
    usage.functions.insert(1, Function::default());
    let (snapshot, plan) = planned(&model, &usage);
    let order: Vec<u32> = plan.removals.iter().map(|removal| removal.depth).collect();
    assert_eq!(order, [0, 1, 1, 2, 2]);
    assert!(plan.removals[1..].iter().all(|removal| removal.owners.len() == 1));
    let (_, kept) = planned(&model, &live(None));
    assert_eq!(kept.removals, []);
    assert_eq!(fate(&snapshot, &kept, 4), (false, Rule::NeededBy));
    assert_eq!(fate(&snapshot, &kept, 5), (false, Rule::NeededBy));
}

#[test]
fn an_untagged_base_that_a_live_function_is_built_on_stays() {
    let base = |number: u32, layers: &[u32]| image(number).with_layers(layers).aged(400.0);
    let model = Model {
        repositories: vec![
            (
                BASE.to_owned(),
                vec![base(1, &[1, 2]), base(2, &[1, 3]), base(3, &[4]).tagged(&["3.11-slim"])],
            ),
            (FUNCTION.to_owned(), vec![image(10).with_layers(&[1, 2, 9]).tagged(&["v1-a"])]),
        ],
    };
    let (snapshot, plan) = planned(&model, &live(Some(10)));
    assert_eq!(fate(&snapshot, &plan, 1), (false, Rule::Base));
    assert_eq!(fate(&snapshot, &plan, 2), (true, Rule::Unused));
    assert_eq!(fate(&snapshot, &plan, 3), (false, Rule::Tagged));
}

#[test]
fn a_plan_says_when_it_is_too_much() {
    let images = |gone: u32| {
        (1..=10)
            .map(|n| {
                image(n).tagged(&[&format!("v{n}-a")]).aged(if n <= gone { 100.0 } else { 5.0 })
            })
            .collect()
    };
    let (_, two) = planned(&Model::of(FUNCTION, images(2)), &live(None));
    assert_eq!(two.exceeds(20), None);
    let (_, three) = planned(&Model::of(FUNCTION, images(3)), &live(None));
    assert!(three.exceeds(20).unwrap().starts_with("3 of 10 images"), "{:?}", three.exceeds(20));
    assert_eq!(three.exceeds(30), None);
}

#[test]
fn a_few_large_images_are_too_much_as_well() {
    let mut large = image(1).tagged(&["v1-a"]).aged(100.0);
    large.manifest.size = 1_000_000;
    let mut images: Vec<_> =
        (2..=20).map(|n| image(n).tagged(&[&format!("v{n}-a")]).aged(5.0)).collect();
    images.push(large);
    let mut usage = live(None);
    for number in 2..=20 {
        usage.digests.push((digest(number), Need::Task));
    }
    let (_, plan) = planned(&Model::of(FUNCTION, images), &usage);
    assert!(plan.exceeds(20).unwrap().contains("bytes would be freed"));
}
