//! Replicas that die, and registries that are away.

use mecapy_proto::v1::MirrorRequested;
use mecapy_store::mirror_runs::Outcome;
use mecapy_testkit::{Infra, Server};

use crate::slow_proxy::SlowProxy;
use crate::world::{PATIENCE, Replica, World, layer};

#[tokio::test]
async fn what_a_dead_replica_was_copying_is_taken_over_and_the_run_ends_once() {
    let world = World::new().await;
    let mut images = Vec::new();
    for _ in 0..3 {
        let image = world.publish(world.function().await, &[layer(2_000_000)]).await;
        world.used(&image, 1).await;
        images.push(image);
    }
    let server = world.config.registries.fallback.clone().unwrap();
    let proxy = SlowProxy::start(server.host.clone(), 1_000_000).await;
    let mut config = world.config.clone();
    config.registries.fallback = Some(mecapy_registry::Options {
        endpoint: Some(format!("http://{}", proxy.address).parse().unwrap()),
        ..server
    });
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
    mecapy_testkit::eventually("the image is tried", PATIENCE, async || {
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
