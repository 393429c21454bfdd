//! Work that replicas share, and what a replica finds that another has left.

use mecapy_proto::v1::MirrorRequested;
use mecapy_registry::{Copier, ProgressSink, Source, Target};
use mecapy_store::mirror_runs::{self, Ended, NewImage, NewRun, Outcome};
use mecapy_testkit::{eventually, unique};

use crate::faults::behind;
use crate::world::{PATIENCE, Replica, World, layer};

#[tokio::test]
async fn a_replica_that_is_slow_keeps_one_image_and_the_others_are_copied_by_others() {
    let world = World::new().await;
    let mut images = Vec::new();
    for _ in 0..4 {
        let image = world.publish(world.function().await, &[layer(500_000)]).await;
        world.used(&image, 1).await;
        images.push(image);
    }
    let (proxy, mut config) = behind(&world, 200_000).await;
    config.mirror.concurrency = 1;
    let slow = Replica::start(config);
    let run = world.request(MirrorRequested::default()).await;
    proxy.is_stuck().await;
    let _other = world.start();
    eventually("the others are copied", PATIENCE, async || {
        let totals = mirror_runs::totals(&world.pool, &run).await.unwrap();
        (totals.mirrored == 3).then_some(())
    })
    .await;
    assert!(!mirror_runs::get(&world.pool, &run).await.unwrap().unwrap().has_ended());
    slow.die();
    let (_, totals) = world.ended(&run).await;
    assert_eq!((totals.mirrored, totals.failed), (4, 0), "{totals:?}");
    for image in &images {
        assert_eq!(world.there(&image.repository, &image.tag).await, Some(image.digest));
    }
    world.heard_done(1).await;
}

#[tokio::test]
async fn what_another_replica_has_copied_is_mounted_and_not_sent_again() {
    let world = World::new().await;
    let dependencies = layer(400_000);
    let [first, second] = [
        world.publish(world.function().await, &[dependencies.clone(), layer(500)]).await,
        world.publish(world.function().await, &[dependencies, layer(500)]).await,
    ];
    // As a replica that is gone by now.
    let source = Source {
        registry: world.primary.clone(),
        repository: first.repository.clone(),
        digest: first.digest,
    };
    let target = Target { repository: first.repository.clone(), ..Target::default() };
    let copier = Copier::new(world.fallback.clone());
    copier.copy(&source, &target, &ProgressSink::none()).await.unwrap();
    let run = NewRun {
        id: unique("run"),
        reason: "manual".to_owned(),
        by_usage: false,
        dry_run: false,
        verify_percent: 0,
    };
    let copied = NewImage {
        repository: first.repository,
        digest: first.digest.to_string(),
        tags: Vec::new(),
        tasks: 0,
        size_bytes: 0,
        ended: Some(Ended::without_bytes(Outcome::Mirrored, None)),
    };
    let mut conn = world.pool.acquire().await.unwrap();
    mirror_runs::create(&mut conn, &run, &[copied]).await.unwrap();
    drop(conn);

    let _mirror = world.start();
    let digests = vec![second.digest.to_string()];
    let (_, totals) = world.run(MirrorRequested { digests, ..Default::default() }).await;
    assert_eq!(totals.mirrored, 1, "{totals:?}");
    assert!(totals.bytes_sent < 2_000 && totals.bytes_saved >= 400_000, "{totals:?}");
}
