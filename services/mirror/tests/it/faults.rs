//! Replicas that die, and registries that are away.

use mecapy_mirror::Config;
use mecapy_proto::v1::MirrorRequested;
use mecapy_store::mirror_progress::{self, OnTheWay};
use mecapy_store::mirror_runs::Outcome;
use mecapy_testkit::{Infra, Server, eventually};

use crate::slow_proxy::SlowProxy;
use crate::world::{PATIENCE, Replica, World, layer};

/// A configuration whose fallback lets so many bytes through, and then none.
pub async fn behind(world: &World, most: u64) -> (SlowProxy, Config) {
    let server = world.config.registries.fallback.clone().unwrap();
    let proxy = SlowProxy::start(server.host.clone(), most).await;
    let mut config = world.config.clone();
    config.registries.fallback = Some(mecapy_registry::Options {
        endpoint: Some(format!("http://{}", proxy.address).parse().unwrap()),
        ..server
    });
    (proxy, config)
}

#[tokio::test]
async fn how_far_an_image_is_can_be_seen_while_it_is_copied() {
    let world = World::new().await;
    let image = world.publish(world.function().await, &[layer(30_000_000)]).await;
    world.used(&image, 1).await;
    let (proxy, config) = behind(&world, 2_000_000).await;
    let slow = Replica::start(config);
    let run = world.request(MirrorRequested::default()).await;
    proxy.is_stuck().await;
    let on_the_way = eventually("the record says how far it is", PATIENCE, async || {
        let told = mirror_progress::of_run(&world.pool, &run).await.unwrap();
        (told.bytes_moved > 0).then_some(told)
    })
    .await;
    let all = on_the_way.bytes_to_move;
    assert!((30_000_000..30_001_000).contains(&all), "{on_the_way:?}");
    // More than got through: the sockets hold some.
    assert!(on_the_way.bytes_moved < all, "{on_the_way:?}");
    slow.die();

    // What is done is not on its way.
    let _other = world.start();
    world.ended(&run).await;
    let after = mirror_progress::of_run(&world.pool, &run).await.unwrap();
    assert_eq!(after, OnTheWay::default());
}

#[tokio::test]
async fn what_a_dead_replica_was_copying_is_taken_over_and_the_run_ends_once() {
    let world = World::new().await;
    let mut images = Vec::new();
    for _ in 0..3 {
        let image = world.publish(world.function().await, &[layer(2_000_000)]).await;
        world.used(&image, 1).await;
        images.push(image);
    }
    let (proxy, config) = behind(&world, 1_000_000).await;
    let mortal = Replica::start(config);
    let run = world.request(MirrorRequested::default()).await;
    proxy.is_stuck().await;
    mortal.die();

    let _other = world.start();
    let (run, totals) = world.ended(&run).await;
    assert_eq!((totals.mirrored + totals.unchanged, totals.failed), (3, 0), "{totals:?}");
    for image in &images {
        assert_eq!(world.there(&image.repository, &image.tag).await, Some(image.digest));
    }
    world.report(&run, "report.txt").await;
    world.heard_done(1).await;
}

#[tokio::test]
async fn a_fallback_that_is_away_is_waited_for() {
    let infra = Infra::start(&Server::ALL).await;
    let world = World::on(&infra).await;
    let image = world.publish(world.function().await, &[layer(100_000)]).await;
    world.used(&image, 1).await;
    infra.stop(Server::Fallback).await;
    let _mirror = world.start();
    let run = world.request(MirrorRequested::default()).await;
    eventually("the image is tried", PATIENCE, async || {
        mecapy_store::mirror_runs::get(&world.pool, &run).await.unwrap()
    })
    .await;
    infra.resume(Server::Fallback).await;
    let (run, _) = world.ended(&run).await;
    assert_eq!(world.outcome(&run, &image).await, Some(Outcome::Mirrored));
    assert_eq!(world.there(&image.repository, &image.tag).await, Some(image.digest));
}

#[tokio::test]
async fn a_fallback_that_stays_away_fails_the_image_and_not_the_run() {
    let mut world = World::new().await;
    let image = world.publish(world.function().await, &[layer(100)]).await;
    world.used(&image, 1).await;
    world.config.mirror.max_deliveries = 1;
    world.config.registries.fallback.as_mut().unwrap().host = "127.0.0.1:9".into();
    let _mirror = world.start();
    let (run, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!((totals.failed, totals.open), (1, 0));
    let row = world.image(&run, &image).await.unwrap();
    assert_eq!(row.error_code.as_deref(), Some("push-failed"));
    let reason = row.error_message.unwrap();
    assert!(
        reason.contains("given up after 1 tries") && reason.contains("127.0.0.1:9"),
        "{reason}"
    );
    assert!(world.report(&run, "report.txt").await.contains("Not mirrored:"));
}

#[tokio::test]
async fn credentials_that_the_fallback_refuses_fail_the_image_at_once() {
    let mut world = World::new().await;
    let image = world.publish(world.function().await, &[layer(100)]).await;
    world.used(&image, 1).await;
    let fallback = world.config.registries.fallback.as_mut().unwrap();
    fallback.password = Some(mecapy_service::Secret::new("wrong"));
    let _mirror = world.start();
    let (run, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!(totals.failed, 1);
    let row = world.image(&run, &image).await.unwrap();
    assert_eq!(row.error_code.as_deref(), Some("registry-unauthorized"));
}
