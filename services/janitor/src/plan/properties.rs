//! What holds for every plan, over registries that nobody would make by hand.

use std::collections::BTreeSet;

use chrono::Duration;
use mecapy_registry::Holds;
use proptest::prelude::*;

use super::model::{Model, ModelImage, digest, image, now};
use super::{Function, Need, Plan, Policies, Usage, plan};

const FUNCTIONS: [&str; 2] = ["mecapy/functions/user-a-func-1", "mecapy/functions/user-b-func-2"];
const BASE: &str = "mecapy/base/python";
const SYSTEM: &str = "system/nats";

/// What one image is made of, in numbers: the registry is built from these.
#[derive(Debug, Clone)]
struct Seed {
    kind: u8,
    tags: Vec<u8>,
    layers: Vec<u32>,
    /// Of earlier images of the repository.
    others: Vec<usize>,
    age: f64,
    used: Option<i64>,
    need: Option<u8>,
}

fn seed() -> impl Strategy<Value = Seed> {
    (
        0_u8..8,
        proptest::collection::vec(0_u8..20, 0..3),
        proptest::collection::vec(0_u32..12, 0..4),
        proptest::collection::vec(0_usize..25, 1..4),
        prop_oneof![Just(0.5), Just(0.99), 1.0..20.0, 20.0..120.0, 300.0..500.0],
        proptest::option::of(0_i64..500),
        proptest::option::weighted(0.1, 0_u8..5),
    )
        .prop_map(|(kind, tags, layers, others, age, used, need)| Seed {
            kind,
            tags,
            layers,
            others,
            age,
            used,
            need,
        })
}

type World = (Model, Usage);

fn world() -> impl Strategy<Value = World> {
    let repository = || proptest::collection::vec(seed(), 0..25);
    (
        [repository(), repository(), repository(), repository()],
        proptest::collection::vec((any::<bool>(), any::<bool>(), 0_usize..25), 2),
        any::<bool>(),
    )
        .prop_map(|(repositories, functions, shares)| build(repositories, functions, shares))
}

fn build(repositories: [Vec<Seed>; 4], functions: Vec<(bool, bool, usize)>, shares: bool) -> World {
    let mut usage = Usage::default();
    let names = [FUNCTIONS[0], FUNCTIONS[1], BASE, SYSTEM];
    let mut model = Model::default();
    for (place, (name, seeds)) in names.into_iter().zip(repositories).enumerate() {
        // Where digests are shared, the same image lies in several repositories.
        let first = if shares { 0 } else { 100 * place as u32 };
        let images = fill(name, first, &seeds, &mut usage);
        model.repositories.push((name.to_owned(), images));
    }
    for (place, (is_live, is_publishing, current)) in functions.into_iter().enumerate() {
        let images = &model.repositories[place].1;
        let current = images.get(current).map(|image| image.manifest.digest);
        if is_live && let Some(current) = current {
            usage.digests.push((current, Need::Current));
        }
        usage.functions.insert(place as i64 + 1, Function { is_live, current, is_publishing });
    }
    (model, usage)
}

fn fill(name: &str, first: u32, seeds: &[Seed], usage: &mut Usage) -> Vec<ModelImage> {
    let mut images: Vec<ModelImage> = Vec::new();
    let mut taken = BTreeSet::new();
    for (number, seed) in seeds.iter().enumerate() {
        let own = first + number as u32;
        let earlier: Vec<u32> =
            seed.others.iter().filter(|o| **o < number).map(|o| first + *o as u32).collect();
        let mut made = image(own).with_layers(&seed.layers).aged(seed.age);
        let mut tags: Vec<String> = Vec::new();
        match (seed.kind, earlier.first()) {
            (5, Some(_)) => made = made.index_of(&earlier),
            (6, Some(subject)) => made = made.referring_to(*subject),
            (7, Some(subject)) => {
                // As the distribution specification has it, or as cosign does: an image, with an ending.
                let ending = ["", ".sig", ".att", ".sbom"][number % 4];
                tags.push(format!("sha256-{}{ending}", digest(*subject).hex()));
                if ending.is_empty() {
                    made = made.index_of(&earlier[1..]);
                }
            }
            _ => {}
        }
        tags.extend(seed.tags.iter().map(|tag| match tag {
            0..16 => format!("v{tag}-0a"),
            16 => "latest".to_owned(),
            17 => "by-hand".to_owned(),
            18 => format!("sha256-{}", digest(own + 1).hex()),
            _ => format!("v{}-0b", own % 16),
        }));
        tags.retain(|tag| taken.insert(tag.clone()));
        made.manifest.tags = tags;
        if let Some(days) = seed.used {
            usage.last_used.insert(digest(own), now() - Duration::days(days));
        }
        match seed.need {
            Some(0) => usage.digests.push((digest(own), Need::Task)),
            Some(1) => usage.digests.push((digest(own), Need::Build)),
            Some(2) => usage.digests.push((digest(own), Need::Base)),
            Some(3) => usage.digests.push((digest(own), Need::PutBack)),
            Some(_) => usage.tags.extend(
                made.manifest.tags.iter().map(|tag| (name.to_owned(), tag.clone(), Need::Task)),
            ),
            None => {}
        }
        images.push(made);
    }
    images
}

fn planned(world: &World) -> (Plan, Model) {
    let snapshot = world.0.snapshot();
    let plan = plan(&snapshot, &world.1, &Policies::default(), now());
    let after = world.0.after(&snapshot, &plan);
    (plan, after)
}

fn all(model: &Model) -> impl Iterator<Item = (&str, &ModelImage)> {
    model
        .repositories
        .iter()
        .flat_map(|(name, images)| images.iter().map(move |image| (name.as_str(), image)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn children_of_a_kept_index_stay(world in world()) {
        let (_, after) = planned(&world);
        for (repository, image) in all(&after) {
            if let Holds::Index { children } = &image.manifest.holds {
                for child in children.iter().filter(|child| world.0.has(repository, child)) {
                    prop_assert!(after.has(repository, child), "{repository} {child}");
                }
            }
        }
    }

    #[test]
    fn referrers_of_a_kept_image_stay(world in world()) {
        let (_, after) = planned(&world);
        for (repository, referrer) in all(&world.0) {
            let by_tag = |tag: &String| tag.strip_prefix("sha256-").and_then(|rest| rest.split('.').next())
                .and_then(|hex| format!("sha256:{hex}").parse().ok());
            let subjects = referrer.manifest.subject.into_iter().chain(referrer.manifest.tags.iter().filter_map(by_tag));
            for subject in subjects.filter(|subject| after.has(repository, subject)) {
                let kept = after.image(repository, &referrer.manifest.digest);
                prop_assert!(kept.is_some(), "{repository} {subject}");
                let by_tag = |tag: &&String| tag.starts_with("sha256-");
                for tag in referrer.manifest.tags.iter().filter(by_tag) {
                    prop_assert!(kept.unwrap().manifest.tags.contains(tag), "{repository} {tag}");
                }
            }
        }
    }

    #[test]
    fn what_is_needed_or_young_stays_with_its_tags(world in world()) {
        let (_, after) = planned(&world);
        for (repository, image) in all(&world.0) {
            let digest = image.manifest.digest;
            let needs: Vec<Need> = world.1.digests.iter().filter(|(of, _)| *of == digest).map(|(_, need)| *need)
                .chain(world.1.tags.iter().filter(|(of, tag, _)| of == repository && image.manifest.tags.contains(tag))
                    .map(|(.., need)| *need)).collect();
            if needs.is_empty() && image.age >= 1.0 {
                continue;
            }
            let kept = after.image(repository, &digest);
            prop_assert!(kept.is_some(), "{repository} {digest} {needs:?}");
            let keeps_tags = image.age < 1.0 || needs.iter().any(|need| matches!(need, Need::Task | Need::Build | Need::PutBack));
            if keeps_tags {
                for tag in image.manifest.tags.iter().filter(|tag| *tag != "latest") {
                    prop_assert!(kept.unwrap().manifest.tags.contains(tag), "{repository} {tag}");
                }
            }
        }
    }

    #[test]
    fn a_digest_that_a_tag_within_its_policy_leads_to_stays(world in world()) {
        let (_, after) = planned(&world);
        for (place, name) in FUNCTIONS.iter().enumerate() {
            if !world.1.functions[&(place as i64 + 1)].is_live {
                continue;
            }
            let images = &world.0.repositories[place].1;
            let version = |tag: &str| tag.strip_prefix('v')?.split_once('-')?.0.parse::<u32>().ok();
            let versions: BTreeSet<u32> = images.iter().flat_map(|image| &image.manifest.tags)
                .filter_map(|tag| version(tag)).collect();
            let newest: BTreeSet<u32> = versions.into_iter().rev().take(10).collect();
            for image in images {
                let idle = world.1.last_used.get(&image.manifest.digest)
                    .map_or(image.age, |used| (now() - *used).num_days() as f64);
                let wanted: Vec<&String> = image.manifest.tags.iter()
                    .filter(|tag| tag.as_str() == "by-hand" || version(tag).is_some_and(|v| newest.contains(&v))).collect();
                if idle < 90.0 && !wanted.is_empty() {
                    let kept = after.image(name, &image.manifest.digest);
                    prop_assert!(kept.is_some(), "{name} {wanted:?}");
                    prop_assert!(wanted.iter().all(|tag| kept.unwrap().manifest.tags.contains(tag)));
                }
            }
        }
    }

    #[test]
    fn tagged_base_images_and_what_no_policy_names_stay_as_they_are(world in world()) {
        let (_, after) = planned(&world);
        prop_assert_eq!(&after.repositories[3], &world.0.repositories[3]);
        for image in &world.0.repositories[2].1 {
            if image.manifest.tags.iter().any(|tag| !tag.starts_with("sha256-")) {
                prop_assert_eq!(after.image(BASE, &image.manifest.digest), Some(image));
            }
        }
    }

    #[test]
    fn a_plan_that_was_applied_changes_nothing_when_it_is_made_again(world in world()) {
        let (_, after) = planned(&world);
        let snapshot = after.snapshot();
        let again = plan(&snapshot, &world.1, &Policies::default(), now());
        prop_assert_eq!(again.removals, []);
        prop_assert_eq!(again.tag_changes, []);
    }

    #[test]
    fn what_is_freed_is_what_is_missing_afterwards(world in world()) {
        let (plan, after) = planned(&world);
        prop_assert_eq!(plan.reclaim.total_bytes, world.0.bytes());
        prop_assert_eq!(plan.reclaim.freed_bytes, world.0.bytes() - after.bytes());
    }

    #[test]
    fn what_depends_on_another_goes_after_it(world in world()) {
        let (plan, _) = planned(&world);
        for (place, removal) in plan.removals.iter().enumerate() {
            for owner in &removal.owners {
                let before = plan.removals[..place].iter().find(|other| other.image == *owner);
                prop_assert!(before.is_some_and(|other| other.depth < removal.depth));
            }
        }
    }
}
