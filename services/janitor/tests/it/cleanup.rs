//! Whole runs: plan, apply, report, undo.

mod meddler;
mod service;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use mecapy_bus::{Handler as _, HandlerError};
use mecapy_proto::v1::CleanupRequested;
use mecapy_registry::DistributionInventory;
use mecapy_store::functions;

use meddler::Meddler;
use world::{World, dispatch, handle, put_image, put_index, queue_task, request};

fn state(state: &str) -> (String, String) {
    (state.to_owned(), String::new())
}

#[tokio::test]
async fn a_run_deletes_what_the_plan_says_and_only_that() {
    let world = World::new().await;
    let (live, deleted) = (world.function("live").await, world.function("deleted").await);
    let (of_live, of_deleted) = (world.repository(live), world.repository(deleted));
    let old = world.publish(live, 1).await;
    let current = world.publish(live, 2).await;
    let gone = world.publish(deleted, 1).await;
    let system = world.push("system/nats", "nats", &["2"]).await;
    let base = world.push("mecapy/base/python", "base", &["3.11-slim"]).await;
    let staged = world.push("mecapy/staging/deps", "staged", &["x"]).await;
    world.age(400).await;
    let young = world.push(&of_deleted, "young", &["v9-0a"]).await;
    let mut conn = world.pool.acquire().await.unwrap();
    assert!(functions::delete(&mut conn, deleted).await.unwrap());

    let outgoing = format!("{:?}", world.cleanup("run").await);
    assert!(outgoing.contains("cleanup.done/run"), "{outgoing}");
    for (repository, digest, stays) in [
        (&of_live, old, false),
        (&of_live, current, true),
        (&of_deleted, gone, false),
        (&of_deleted, young, true),
        (&"system/nats".to_owned(), system, true),
        (&"mecapy/base/python".to_owned(), base, true),
        (&"mecapy/staging/deps".to_owned(), staged, true),
    ] {
        assert_eq!(world.has(repository, digest).await, stays, "{repository}");
    }
    let (json, text) = world.report("run").await;
    assert_eq!(
        json["deleted_by_policy"],
        serde_json::json!({ "functions/deleted-function": 1, "functions/unused": 1 })
    );
    assert_eq!((&json["images_deleted"], &json["images_skipped"]), (&2.into(), &0.into()));
    assert_eq!(
        json["without_policy"],
        serde_json::json!([["mecapy/staging/deps", 1], ["system/nats", 1]])
    );
    assert!(text.contains("(applied)") && text.contains("no task or build used it for "), "{text}");
    let run = world.run("run").await;
    assert_eq!((run.state.as_str(), run.planned_images), ("done", 2));
    assert!(run.freed_bytes > 0 && run.freed_bytes == run.planned_bytes, "{run:?}");
    assert_eq!(json["storage_used_bytes"], run.storage_bytes);

    // The same event again is nothing; another run finds nothing to do, and the registry as it was left.
    assert_eq!(format!("{:?}", world.cleanup("run").await), "Outgoing([])");
    world.cleanup("again").await;
    let again = world.run("again").await;
    assert_eq!((again.planned_images, again.freed_bytes), (0, 0));
    assert_eq!(again.storage_bytes, run.storage_bytes, "what was freed is what is missing");
}

#[tokio::test]
async fn a_dry_run_deletes_nothing() {
    let world = World::new().await;
    let function = world.function("f").await;
    world.publish(function, 1).await;
    world.publish(function, 2).await;
    world.age(100).await;
    let before = world.tags(&world.repository(function)).await;
    world.request(&CleanupRequested { dry_run: true, ..request("dry") }).await.unwrap();
    assert_eq!(world.tags(&world.repository(function)).await, before);
    let items = world.items("dry").await;
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].state.as_str(), items[0].rule.as_str()), ("planned", "unused"));
    let (json, text) = world.report("dry").await;
    assert_eq!((&json["dry_run"], &json["images_deleted"]), (&true.into(), &1.into()));
    assert!(
        text.contains("dry run: nothing was deleted") && text.contains("1 to delete"),
        "{text}"
    );
    assert_eq!(mecapy_store::storage_samples::list(&world.pool, 10).await.unwrap(), []);
}

#[tokio::test]
async fn an_old_tag_goes_and_its_siblings_stay() {
    let world = World::new().await;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let shared = world.push(&repository, "shared", &["v1-0a", "v12-0a"]).await;
    let mut tags = BTreeMap::from([("v12-0a".to_owned(), shared)]);
    for version in 2..=11 {
        let tag = format!("v{version}-0a");
        let digest = world.push(&repository, &tag, &[&tag]).await;
        if version > 2 {
            tags.insert(tag, digest);
        }
    }
    world.age(5).await;
    world.cleanup("run").await;
    assert_eq!(world.tags(&repository).await, tags);
    world.pull(&repository, shared).await;
    let (json, _) = world.report("run").await;
    assert_eq!((&json["tags_removed"], &json["images_deleted"]), (&1.into(), &1.into()));
    assert_eq!(world.undo("undo", "run").await, [state("undone"), state("undone")]);
    assert_eq!(world.tag(&repository, "v1-0a").await, Some(shared));
    assert_eq!(world.tags(&repository).await.len(), 12);
}

#[tokio::test]
async fn latest_follows_the_newest_version_that_is_ready() {
    let world = World::new().await;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let current = world.publish(function, 1).await;
    let stray = world.push(&repository, "by hand", &["latest"]).await;
    world.age(40).await;
    world.cleanup("run").await;
    assert_eq!(world.tag(&repository, "latest").await, Some(current));
    assert!(!world.has(&repository, stray).await, "no tag led to it for more than 30 days");
    let (json, _) = world.report("run").await;
    assert_eq!(json["tags_moved"], 1);
    assert_eq!(json["deleted_by_policy"], serde_json::json!({ "functions/stale-latest": 1 }));
}

#[tokio::test]
async fn the_image_of_a_queued_task_stays_also_when_it_comes_after_the_plan() {
    let mut world = World::new().await;
    // What comes while the first is on its way has come before the others are looked at.
    world.options.concurrency = 1;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let mut versions = Vec::new();
    for version in 1..=4 {
        versions.push(world.publish(function, version).await);
    }
    world.age(100).await;
    world.queue_task(function, &versions[0].to_string()).await;
    let (pool, by_tag) =
        (world.pool.clone(), format!("{}/{repository}:v2-0a", world.primary.host()));
    let meddler = Meddler::new(DistributionInventory::new(world.primary.clone())).before_first(
        Box::new(move || {
            let (pool, by_tag) = (pool.clone(), by_tag.clone());
            Box::pin(async move {
                queue_task(&pool, function, &by_tag).await;
            })
        }),
    );
    handle(&world.janitor_with(Arc::new(meddler)), &request("run")).await.unwrap();
    assert_eq!(world.items("run").await.len(), 2, "the task that was there is in the plan");
    let (state, why) = world.item("run", versions[1]).await;
    assert_eq!(
        (state.as_str(), why.as_str()),
        ("skipped", "a task needs it that came after the plan")
    );
    let stay: Vec<bool> = vec![
        world.has(&repository, versions[0]).await,
        world.has(&repository, versions[1]).await,
        world.has(&repository, versions[2]).await,
        world.has(&repository, versions[3]).await,
    ];
    assert_eq!(stay, [true, true, false, true]);
    let run = world.run("run").await;
    assert!(run.freed_bytes < run.planned_bytes, "what was skipped is not freed");
}

#[tokio::test]
async fn a_task_that_waits_in_the_queue_alone_keeps_its_image() {
    let mut world = World::new().await;
    // What comes while the first is on its way has come before the others are looked at.
    world.options.concurrency = 1;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let mut versions = Vec::new();
    for version in 1..=5 {
        versions.push(world.publish(function, version).await);
    }
    world.age(100).await;
    // There before the plan: one by its digest, one by its tag, and so many others that they are not read one by one.
    dispatch(&world.bus, function, &versions[0].to_string()).await;
    for _ in 0..100 {
        dispatch(&world.bus, function, "").await;
    }
    dispatch(&world.bus, function, "v2-0a").await;
    let (bus, reference) =
        (world.bus.clone(), format!("{}/{repository}:v3-0a", world.primary.host()));
    let meddler = Meddler::new(DistributionInventory::new(world.primary.clone())).before_first(
        Box::new(move || {
            let (bus, reference) = (bus.clone(), reference.clone());
            Box::pin(async move { dispatch(&bus, function, &reference).await })
        }),
    );
    handle(&world.janitor_with(Arc::new(meddler)), &request("run")).await.unwrap();
    let (state, why) = world.item("run", versions[2]).await;
    assert_eq!((state.as_str(), why.as_str()), ("skipped", "a task that waits needs it"));
    assert_eq!(world.item("run", versions[3]).await.0, "done");
    assert_eq!(world.items("run").await.len(), 2, "those that waited are in the plan");
    for (version, stays) in versions.iter().zip([true, true, true, false, true]) {
        assert_eq!(world.has(&repository, *version).await, stays, "{version}");
    }
}

#[tokio::test]
async fn a_queue_that_can_not_be_read_deletes_nothing() {
    let world = World::new().await;
    let function = world.function("f").await;
    let old = world.publish(function, 1).await;
    world.publish(function, 2).await;
    world.age(100).await;
    let mut janitor = world.janitor();
    // Another account, where setup has not run.
    let account = mecapy_testkit::Infra::shared().await.nats().await;
    let nats = mecapy_bus::Options {
        url: account.url,
        user: Some(account.user),
        password: Some(mecapy_service::Secret::new(account.password)),
    };
    janitor.bus = mecapy_bus::Bus::connect_now("test", &nats).await.unwrap();
    let refused = handle(&janitor, &request("run")).await;
    assert!(matches!(refused, Err(HandlerError::Transient(_))), "{refused:?}");
    assert!(world.has(&world.repository(function), old).await);
}

#[tokio::test]
async fn what_somebody_else_deleted_is_gone_and_not_counted_as_freed() {
    let mut world = World::new().await;
    world.options.concurrency = 1;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let others = world.publish(function, 1).await;
    let ours = world.publish(function, 2).await;
    world.publish(function, 3).await;
    world.age(100).await;
    let (registry, from) = (world.primary.clone(), repository.clone());
    let meddler = Meddler::new(DistributionInventory::new(world.primary.clone())).before_first(
        Box::new(move || {
            let (registry, from) = (registry.clone(), from.clone());
            Box::pin(async move {
                assert!(registry.delete_manifest(&from, &others).await.unwrap());
            })
        }),
    );
    handle(&world.janitor_with(Arc::new(meddler)), &request("run")).await.unwrap();
    assert_eq!(world.item("run", others).await.0, "absent");
    assert_eq!(world.item("run", ours).await.0, "done");
    let run = world.run("run").await;
    assert!(0 < run.freed_bytes && run.freed_bytes < run.planned_bytes, "{run:?}");
    world.cleanup("again").await;
    assert_eq!(world.run("again").await.storage_bytes, run.storage_bytes, "what is left is left");
}

#[tokio::test]
async fn an_image_comes_back_with_what_refers_to_it() {
    let world = World::new().await;
    let (one, other) = (world.function("one").await, world.function("other").await);
    let mut made = Vec::new();
    for function in [one, other] {
        let repository = world.repository(function);
        let image = put_image(&world.primary, &repository, "image", None).await;
        world.primary.put_manifest(&repository, "v1-0a", &image).await.unwrap();
        let sbom = put_image(&world.primary, &repository, "sbom", Some(&image)).await;
        world.primary.put_manifest(&repository, &sbom.digest.to_string(), &sbom).await.unwrap();
        let schema = format!("sha256-{}", image.digest.hex());
        let referrers = put_index(&world.primary, &repository, &schema, &[&sbom]).await;
        made.push((repository, schema, [image.digest, sbom.digest, referrers]));
    }
    world.age(5).await;
    let mut conn = world.pool.acquire().await.unwrap();
    for function in [one, other] {
        functions::delete(&mut conn, function).await.unwrap();
    }
    world.cleanup("run").await;
    let (repository, schema, digests) = &made[0];
    let undone = world.undo("undo", &format!("{repository}:v1-0a")).await;
    assert_eq!(undone.len(), 3, "{undone:?}");
    assert!(undone.iter().all(|(state, _)| state == "undone"), "{undone:?}");
    for digest in digests {
        assert!(world.has(repository, *digest).await, "{digest}");
    }
    assert_eq!(world.tag(repository, schema).await, Some(digests[2]));
    for digest in made[1].2 {
        assert!(!world.has(&made[1].0, digest).await, "only what was named");
    }
}

#[tokio::test]
async fn a_deletion_without_an_outcome_can_be_undone() {
    let world = World::new().await;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let old = world.publish(function, 1).await;
    world.publish(function, 2).await;
    world.age(100).await;
    world.cleanup("run").await;
    // As after a kill between the deletion and its row, by a run that nobody went on with.
    for sql in [
        "update cleanup_items set state = 'planned'",
        "update cleanup_runs set state = 'failed' where id = 'run'",
    ] {
        sqlx::query(sql).execute(&world.pool).await.unwrap();
    }
    assert_eq!(world.undo("undo", "run").await, [state("undone")]);
    world.pull(&repository, old).await;
    // The run, asked for again, leaves it.
    world.cleanup("run").await;
    assert!(world.has(&repository, old).await);
}

#[tokio::test]
async fn what_comes_to_be_needed_during_its_deletion_is_put_back_at_once_or_can_be_undone() {
    for has_lost_blobs in [false, true] {
        let world = World::new().await;
        let function = world.function("f").await;
        let repository = world.repository(function);
        let old = world.publish(function, 1).await;
        world.publish(function, 2).await;
        world.age(100).await;
        let (pool, name) = (world.pool.clone(), old.to_string());
        let mut meddler = Meddler::new(DistributionInventory::new(world.primary.clone()))
            .after_delete(Box::new(move || {
                let (pool, name) = (pool.clone(), name.clone());
                Box::pin(async move {
                    queue_task(&pool, function, &name).await;
                })
            }));
        meddler.has_lost_blobs = has_lost_blobs;
        handle(&world.janitor_with(Arc::new(meddler)), &request("run")).await.unwrap();
        let (state, why) = world.item("run", old).await;
        if has_lost_blobs {
            assert_eq!(state, "done", "an undo finds it: {why}");
            assert_eq!(world.undo("undo", "run").await.len(), 1);
        } else {
            assert_eq!(state, "skipped", "{why}");
            assert!(why.starts_with("it was put back at once: a task needs it"), "{why}");
        }
        assert!(world.has(&repository, old).await);
        assert_eq!(world.tag(&repository, "v1-0a").await, Some(old));
    }
}

#[tokio::test]
async fn a_tag_that_came_to_an_image_after_the_plan_keeps_it() {
    let world = World::new().await;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let old = world.publish(function, 1).await;
    world.publish(function, 2).await;
    world.age(100).await;
    let (registry, to) = (world.primary.clone(), repository.clone());
    let meddler = Meddler::new(DistributionInventory::new(world.primary.clone())).before_first(
        Box::new(move || {
            let (registry, to) = (registry.clone(), to.clone());
            Box::pin(async move {
                let manifest = registry.manifest(&to, &old.to_string()).await.unwrap();
                registry.put_manifest(&to, "v3-0a", &manifest).await.unwrap();
            })
        }),
    );
    handle(&world.janitor_with(Arc::new(meddler)), &request("run")).await.unwrap();
    let (state, why) = world.item("run", old).await;
    assert_eq!(state, "skipped", "{why}");
    assert_eq!(world.tag(&repository, "v3-0a").await, Some(old));
}

#[tokio::test]
async fn indexes_and_what_refers_to_images_go_whole_and_stay_whole() {
    let world = World::new().await;
    let (live, deleted) = (world.function("live").await, world.function("deleted").await);
    let mut made = Vec::new();
    for function in [live, deleted] {
        let repository = world.repository(function);
        let child = put_image(&world.primary, &repository, "child", None).await;
        world.primary.put_manifest(&repository, &child.digest.to_string(), &child).await.unwrap();
        let index = put_index(&world.primary, &repository, "v1-0a", &[&child]).await;
        let sbom = put_image(&world.primary, &repository, "sbom", Some(&child)).await;
        world.primary.put_manifest(&repository, &sbom.digest.to_string(), &sbom).await.unwrap();
        let schema = format!("sha256-{}", child.digest.hex());
        let referrers = put_index(&world.primary, &repository, &schema, &[&sbom]).await;
        made.push((repository, [index, child.digest, referrers, sbom.digest]));
    }
    world.age(5).await;
    let mut conn = world.pool.acquire().await.unwrap();
    functions::delete(&mut conn, deleted).await.unwrap();
    world.cleanup("run").await;
    for (stays, (repository, digests)) in [true, false].into_iter().zip(&made) {
        for digest in digests {
            assert_eq!(world.has(repository, *digest).await, stays, "{repository} {digest}");
        }
    }
    let outcomes = world.undo("undo", "run").await;
    assert!(outcomes.iter().all(|(state, _)| state == "undone"), "{outcomes:?}");
    for digest in made[1].1 {
        assert!(world.has(&made[1].0, digest).await, "{digest}");
    }
}

#[tokio::test]
async fn a_run_that_was_killed_is_gone_on_with_and_does_nothing_twice() {
    let mut world = World::new().await;
    // One at a time, so that none is on its way when it is killed, and all are counted.
    world.options.concurrency = 1;
    let function = world.function("f").await;
    let repository = world.repository(function);
    for version in 1..=9 {
        world.publish(function, version).await;
    }
    world.age(100).await;
    let inventory = || DistributionInventory::new(world.primary.clone());
    let dying = Arc::new(Meddler::new(inventory()).hanging_after(3));
    let janitor = world.janitor_with(dying.clone());
    let event = request("run");
    tokio::select! {
        _ = handle(&janitor, &event) => panic!("it must not end"),
        () = dying.hangs.notified() => {}
    }
    let run = world.run("run").await;
    assert_eq!((run.state.as_str(), run.planned_images), ("applying", 8));
    let done_before = dying.deletions();
    assert_eq!(done_before, 3);

    let second = Arc::new(Meddler::new(inventory()));
    handle(&world.janitor_with(second.clone()), &request("run")).await.unwrap();
    assert_eq!(done_before + second.deletions(), 8, "nothing twice, nothing lost");
    let items = world.items("run").await;
    assert!(items.iter().all(|item| item.state == "done"), "{items:?}");
    assert_eq!(world.tags(&repository).await.keys().collect::<Vec<_>>(), ["latest", "v9-0a"]);
    let run = world.run("run").await;
    assert_eq!((run.state.as_str(), run.freed_bytes), ("done", run.planned_bytes));
}

#[tokio::test]
async fn undo_brings_an_image_back_whole_and_it_stays() {
    let world = World::new().await;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let old = world.publish(function, 1).await;
    let older = world.publish(function, 2).await;
    world.publish(function, 3).await;
    world.age(100).await;
    world.cleanup("run").await;
    assert!(!world.has(&repository, old).await && !world.has(&repository, older).await);
    let image = format!("{repository}:v1-0a");
    assert_eq!(world.undo("undo-image", &image).await, [state("undone")]);
    assert_eq!(world.tag(&repository, "v1-0a").await, Some(old));
    world.pull(&repository, old).await;
    assert!(!world.has(&repository, older).await, "only what was named");
    assert_eq!(world.undo("undo-run", "run").await, [state("undone")]);
    world.pull(&repository, older).await;
    // The next night does not take it away again.
    world.age(100).await;
    world.cleanup("next").await;
    assert_eq!(world.run("next").await.planned_images, 0);
    let nothing = CleanupRequested { undo: image, ..request("undo-again") };
    let refused = world.request(&nothing).await;
    assert!(
        matches!(&refused, Err(HandlerError::Permanent(why)) if why.contains("nothing that was deleted")),
        "{refused:?}"
    );
    assert_eq!(world.run("undo-again").await.state, "failed");
}

#[tokio::test]
async fn undo_takes_from_the_fallback_what_the_registry_lost_and_says_when_it_cannot() {
    let world = World::new().await;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let mirrored = world.publish(function, 1).await;
    let lost = world.publish(function, 2).await;
    world.publish(function, 3).await;
    world::push(&world.fallback, &repository, &format!("{function} version 1"), &["v1-0a"]).await;
    world.age(100).await;
    world.cleanup("run").await;
    let mut meddler = Meddler::new(DistributionInventory::new(world.primary.clone()));
    meddler.has_lost_blobs = true;
    let janitor = world.janitor_with(Arc::new(meddler));
    handle(&janitor, &CleanupRequested { undo: "run".to_owned(), ..request("undo") })
        .await
        .unwrap();
    assert_eq!(
        world.item("run", mirrored).await,
        ("undone".to_owned(), "from the fallback registry".to_owned())
    );
    assert_eq!(world.tag(&repository, "v1-0a").await, Some(mirrored));
    world.pull(&repository, mirrored).await;
    let (state, why) = world.item("run", lost).await;
    assert_eq!(state, "undo_failed");
    assert!(why.contains("the fallback registry does not hold it"), "{why}");
}

#[tokio::test]
async fn a_run_that_would_delete_too_much_stops_until_it_is_confirmed() {
    let mut world = World::new().await;
    world.options.max_percent = 20;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let old = world.publish(function, 1).await;
    world.publish(function, 2).await;
    world.age(100).await;
    world.cleanup("run").await;
    let run = world.run("run").await;
    assert_eq!(run.state, "done");
    assert!(run.stopped.contains("1 of 2 images"), "{}", run.stopped);
    assert!(world.has(&repository, old).await);
    let (json, text) = world.report("run").await;
    assert!(text.contains("stopped: nothing was deleted"), "{text}");
    assert_eq!(json["images_deleted"], 1, "what it would have deleted");
    world.request(&CleanupRequested { confirm: true, ..request("confirmed") }).await.unwrap();
    assert!(!world.has(&repository, old).await);
}

#[tokio::test]
async fn with_require_mirrored_nothing_goes_that_the_fallback_does_not_hold() {
    let mut world = World::new().await;
    world.options.require_mirrored = true;
    let function = world.function("f").await;
    let repository = world.repository(function);
    let mirrored = world.publish(function, 1).await;
    let only_here = world.publish(function, 2).await;
    world.publish(function, 3).await;
    let copy =
        world::push(&world.fallback, &repository, &format!("{function} version 1"), &["v1-0a"])
            .await;
    assert_eq!(copy, mirrored);
    world.age(100).await;
    world.cleanup("run").await;
    assert!(!world.has(&repository, mirrored).await);
    assert!(world.has(&repository, only_here).await);
    let (state, why) = world.item("run", only_here).await;
    assert_eq!(
        (state.as_str(), why.as_str()),
        ("skipped", "the fallback registry does not hold it")
    );
}

#[tokio::test]
async fn what_cannot_be_read_wholly_deletes_nothing() {
    let world = World::new().await;
    let function = world.function("f").await;
    world.publish(function, 1).await;
    let old = world.publish(function, 2).await;
    world.publish(function, 3).await;
    world.age(100).await;
    let mut janitor = world.janitor();
    let wrong = mecapy_registry::Options {
        password: Some(mecapy_service::Secret::new("wrong")),
        ..world::registry_options(&world.registries.primary())
    };
    let wrong = mecapy_registry::Registry::new(&wrong).unwrap();
    janitor.inventory = Arc::new(DistributionInventory::new(wrong));
    let refused = handle(&janitor, &request("run")).await;
    assert!(matches!(refused, Err(HandlerError::Permanent(_))), "{refused:?}");
    assert_eq!(world.run("run").await.state, "failed");
    assert!(world.has(&world.repository(function), old).await);
    // Replayed from the dead letters, it goes on.
    world.cleanup("run").await;
    assert_eq!(world.run("run").await.state, "done");
    assert!(!world.has(&world.repository(function), old).await);
    let nonsense = CleanupRequested {
        policy_overrides: [("functions".to_owned(), "unused_day = 1".to_owned())].into(),
        ..request("nonsense")
    };
    let refused = world.request(&nonsense).await;
    assert!(
        matches!(&refused, Err(HandlerError::Permanent(why)) if why.contains("unused_day")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_event_of_another_kind_does_not_touch_a_run() {
    let world = World::new().await;
    world.cleanup("run").await;
    let other = CleanupRequested { undo: "something".to_owned(), ..request("run") };
    let refused = world.request(&other).await;
    assert!(
        matches!(&refused, Err(HandlerError::Permanent(why)) if why.contains("another kind")),
        "{refused:?}"
    );
    assert_eq!(
        (world.run("run").await.state, world.run("run").await.problem),
        ("done".into(), String::new())
    );
}

#[tokio::test]
async fn the_last_try_ends_a_run_for_whoever_follows_it_and_its_replay_goes_on() {
    let world = World::new().await;
    let mut janitor = world.janitor();
    let nowhere = mecapy_registry::Options {
        host: "127.0.0.1:9".to_owned(),
        plain_http: true,
        ..Default::default()
    };
    let nowhere = mecapy_registry::Registry::new(&nowhere).unwrap();
    janitor.inventory = Arc::new(DistributionInventory::new(nowhere));
    let delivery = mecapy_bus::Delivery {
        message_id: "m".to_owned(),
        count: mecapy_bus::topology::MAX_DELIVERIES - 1,
        hand_back: Default::default(),
    };
    let away = janitor.handle(request("run"), &delivery).await;
    assert!(matches!(away, Err(HandlerError::Transient(_))));
    let run = world.run("run").await;
    assert_eq!(run.state, "failed");
    assert!(!run.problem.is_empty());
    world.cleanup("run").await;
    assert_eq!(world.run("run").await.state, "done");
}

#[tokio::test]
async fn a_plan_of_yesterday_is_not_applied() {
    let world = World::new().await;
    let function = world.function("f").await;
    let old = world.publish(function, 1).await;
    world.publish(function, 2).await;
    world.cleanup("run").await;
    let mut conn = world.pool.acquire().await.unwrap();
    sqlx::query("update cleanup_runs set state = 'applying', ended_at = null, planned_at = now() - interval '2 days'")
        .execute(&mut *conn)
        .await
        .unwrap();
    drop(conn);
    let refused = world.request(&request("run")).await;
    assert!(
        matches!(&refused, Err(HandlerError::Permanent(why)) if why.contains("older than a day")),
        "{refused:?}"
    );
    assert!(world.has(&world.repository(function), old).await);
}
