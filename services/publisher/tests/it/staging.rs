//! What is published leaves staging.

use std::time::Duration;

use mecapy_bus::{Bus, topology};
use mecapy_proto::BuildId;
use mecapy_proto::v1::ScanDone;
use mecapy_publisher::Config;
use mecapy_registry::{Digest, ImageRef, Verifier};
use mecapy_service::{Context, Health, Secret};
use mecapy_store::{BuildState, builds};
use mecapy_testkit::{Infra, eventually, unique};
use tokio_util::sync::CancellationToken;

use crate::away::Gate;
use crate::{World, hear};

pub async fn sweep(world: &World, event: &ScanDone, repository: &str) {
    let digest = event.digest.parse().unwrap();
    let broom = &world.publish.staging;
    let staged = ImageRef::new(&world.server.host, repository).with_tag(&event.tag);
    broom.sweep(event.build_id.parse().unwrap(), &staged, digest).await;
}

pub async fn is_staged(world: &World, event: &ScanDone) -> bool {
    let found = world.registry.resolve(&world.staging(), &event.digest).await;
    found.unwrap().is_some()
}

#[tokio::test]
async fn what_is_published_leaves_staging_and_stays_whole_where_it_is_published() {
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    world.handle(&event).await.unwrap();
    assert!(is_staged(&world, &event).await, "not before the commit");
    sweep(&world, &event, &world.staging()).await;
    assert!(!is_staged(&world, &event).await);
    let digest: Digest = event.digest.parse().unwrap();
    let verifier = Verifier::new(world.registry.clone());
    verifier.verify(&world.published(), &digest).await.unwrap();
    // The same again, and the event again.
    sweep(&world, &event, &world.staging()).await;
    world.handle(&event).await.unwrap();
    assert_eq!(world.build(&event).await.state, BuildState::Ready);
    assert_eq!(world.tag("latest").await, Some(digest));
}

#[tokio::test]
async fn an_image_that_another_build_has_or_may_come_to_have_stays() {
    let world = World::new().await;
    let (event, same) = (world.scanned(1).await, world.scanned(1).await);
    for event in [&event, &same] {
        world.record(event, true).await;
    }
    world.handle(&event).await.unwrap();
    sweep(&world, &event, &world.staging()).await;
    assert!(is_staged(&world, &event).await, "another build is about to publish it");
    world.handle(&same).await.unwrap();

    let begun = BuildId::new();
    let mut conn = world.pool.acquire().await.unwrap();
    builds::create(&mut conn, begun, world.function, 1).await.unwrap();
    sweep(&world, &event, &world.staging()).await;
    assert!(is_staged(&world, &event).await, "a build of the function has begun");
    let failure =
        mecapy_store::StoredFailure { code: "x".into(), message: String::new(), log: Vec::new() };
    builds::fail(&mut conn, begun, &failure, None).await.unwrap();
    sweep(&world, &event, &world.staging()).await;
    assert!(!is_staged(&world, &event).await);
}

#[tokio::test]
async fn what_a_build_that_began_meanwhile_needs_is_put_back_where_sweeps_find_it() {
    for tag_is_taken in [false, true] {
        let mut world = World::new().await;
        let event = world.scanned(1).await;
        world.record(&event, true).await;
        world.handle(&event).await.unwrap();
        let (registry, staging) = (world.registry.clone(), world.staging());
        let manifest = registry.manifest(&staging, &event.digest).await.unwrap();
        registry.put_manifest(&staging, &event.tag, &manifest).await.unwrap();
        let other = world.staged(&staging, &unique("other")).await;
        let gate = Gate::start(&world.server).await;
        world.publish.staging.staging = gate.registry();
        let begun = async {
            // It has seen that nobody needs the image, and is about to remove it.
            gate.is_reached().await;
            let mut conn = world.pool.acquire().await.unwrap();
            builds::create(&mut conn, BuildId::new(), world.function, 1).await.unwrap();
            if tag_is_taken {
                registry.put_manifest(&staging, &event.tag, &other).await.unwrap();
            }
            gate.open();
        };
        tokio::join!(sweep(&world, &event, &staging), begun);
        assert!(is_staged(&world, &event).await);
        let expected = if tag_is_taken { other.digest } else { manifest.digest };
        let lead = registry.resolve(&staging, &event.tag).await.unwrap();
        assert_eq!(lead.map(|lead| lead.digest), Some(expected), "{tag_is_taken}");
    }
}

#[tokio::test]
async fn dependency_images_and_what_is_not_in_staging_stay() {
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    world.handle(&event).await.unwrap();
    let dependencies = "mecapy/staging/deps";
    let image = world.staged(dependencies, &unique("deps")).await;
    let of_image = ScanDone { digest: image.digest.to_string(), ..event.clone() };
    sweep(&world, &of_image, dependencies).await;
    let reference = image.digest.to_string();
    assert!(world.registry.resolve(dependencies, &reference).await.unwrap().is_some());
    sweep(&world, &event, &world.published()).await;
    assert!(world.registry.resolve(&world.published(), &event.digest).await.unwrap().is_some());
}

#[tokio::test]
async fn an_image_that_is_gone_from_staging_because_it_is_published_fails_nothing() {
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    // Elsewhere, the same event came to its end between the look at the record and the copy.
    let (told, _ear) = hear();
    let gate = Gate::start(&world.server).await;
    let mut late = world;
    late.publish.staging.staging = gate.registry();
    let handled = late.handle(&event);
    let first = async {
        gate.is_reached().await;
        let digest: Digest = event.digest.parse().unwrap();
        let mut conn = late.pool.acquire().await.unwrap();
        let id = event.build_id.parse().unwrap();
        assert!(builds::published(&mut conn, id, "image").await.unwrap());
        late.registry.delete_manifest(&late.staging(), &digest).await.unwrap();
        gate.open();
    };
    let (handled, ()) = tokio::join!(handled, first);
    handled.unwrap();
    assert_eq!(late.build(&event).await.state, BuildState::Ready);
    let told = told.render();
    assert!(!told.contains("mecapy_publish_failures_total"), "nobody is alerted: {told}");
}

#[tokio::test]
async fn the_service_removes_it_after_the_commit() {
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    let account = Infra::shared().await.nats().await;
    let nats = mecapy_bus::Options {
        url: account.url,
        user: Some(account.user),
        password: Some(Secret::new(account.password)),
    };
    let bus = Bus::connect_now("test", &nats).await.unwrap();
    // Once more where the server answers late: what is there already stays.
    eventually("NATS is set up", Duration::from_secs(120), async || {
        topology::setup(&bus, &topology::Setup::default()).await.ok()
    })
    .await;
    let mut config = Config {
        nats,
        postgres: world.postgres.clone(),
        s3: world.s3.clone(),
        ..Config::default()
    };
    config.registries.primary = crate::options(&world.server, &world.server.password);
    let stop = CancellationToken::new();
    let context = Context {
        service: "publisher",
        replica: unique("replica"),
        health: Health::default(),
        shutdown: stop.clone(),
        hand_back: stop.clone(),
    };
    let service = tokio::spawn(mecapy_publisher::run(config, context));
    bus.publish(&event).await.unwrap();
    eventually("the image leaves staging", Duration::from_secs(120), async || {
        (!is_staged(&world, &event).await).then_some(())
    })
    .await;
    assert_eq!(world.build(&event).await.state, BuildState::Ready);
    assert_eq!(world.tag(&event.tag).await, Some(event.digest.parse().unwrap()));
    stop.cancel();
    service.await.unwrap().unwrap();
}
