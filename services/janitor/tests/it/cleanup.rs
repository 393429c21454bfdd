//! Whole runs: plan, apply, report, undo.

mod meanwhile;
mod meddler;
mod service;
mod undo;
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
    let count = mecapy_bus::topology::MAX_DELIVERIES - 1;
    let delivery = mecapy_bus::Delivery::new("m", count, Default::default());
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
