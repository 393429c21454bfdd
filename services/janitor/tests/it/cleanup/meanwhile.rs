//! What comes between the plan and a deletion, or during it.

use super::*;

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
