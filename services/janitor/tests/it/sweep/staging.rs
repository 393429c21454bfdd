use bytes::Bytes;
use chrono::Utc;
use mecapy_janitor::sweep::{Options, Part, run};
use mecapy_registry::{Descriptor, Manifest, Registry, media_types};
use mecapy_store::{StoredFailure, builds};
use mecapy_testkit::{Infra, Server, unique};

use super::work::to_scanning;
use super::world::{World, primary};

/// An image that nobody else has.
async fn image(registry: &Registry, repository: &str, tag: &str) -> Manifest {
    let content = Bytes::from(format!("{{\"v\":\"{}\"}}", unique("content")));
    let config = registry.put_blob(repository, content).await.unwrap();
    let config = Descriptor::new(media_types::OCI_CONFIG, config.digest, config.size);
    let raw = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_types::OCI_MANIFEST, "config": config, "layers": [],
    });
    let manifest = Manifest::new(raw.to_string().into(), media_types::OCI_MANIFEST);
    registry.put_manifest(repository, tag, &manifest).await.unwrap();
    manifest
}

async fn is_there(registry: &Registry, repository: &str, image: &Manifest) -> bool {
    registry.resolve(repository, &image.digest.to_string()).await.unwrap().is_some()
}

/// Standing still is not what these are about.
fn options() -> Options {
    Options { stalled_seconds: 1_000_000, ..World::options() }
}

#[tokio::test]
async fn an_image_of_a_running_build_stays_and_goes_a_day_after_its_end() {
    let world = World::start().await;
    let registry = primary().await;
    let repository = format!("mecapy/staging/user-{}-func-{}", world.owner, world.function);
    let staged = image(&registry, &repository, "v1-00000000").await;
    let unrecorded = image(&registry, &repository, "v2-00000000").await;
    let (build, _) = world.build(1).await;
    to_scanning(&world, build, &staged.digest.to_string()).await;
    world.age(build, "3 days").await;
    let sweeps = world.sweeps_with(registry.clone(), options());
    let report = run(&sweeps, Part::Housekeeping, Utc::now()).await.unwrap().unwrap();
    assert_eq!(report.of("staging_images"), 0);

    let mut conn = world.pool.acquire().await.unwrap();
    let failure = StoredFailure { code: "x".into(), message: "x".into(), log: Vec::new() };
    builds::fail(&mut conn, build, &failure, None).await.unwrap();
    drop(conn);
    let report = run(&sweeps, Part::Housekeeping, Utc::now()).await.unwrap().unwrap();
    assert_eq!(report.of("staging_images"), 0, "it ended just now");

    world.age(build, "25 hours").await;
    let report = run(&sweeps, Part::Housekeeping, Utc::now()).await.unwrap().unwrap();
    assert_eq!(report.of("staging_images"), 1);
    assert!(!is_there(&registry, &repository, &staged).await);
    assert!(is_there(&registry, &repository, &unrecorded).await, "it was first seen today");

    world.execute("update staging_seen set first_seen_at = now() - interval '25 hours'").await;
    // Another build of the function may be about to use it.
    let (next, _) = world.build(2).await;
    run(&sweeps, Part::Housekeeping, Utc::now()).await.unwrap().unwrap();
    assert!(is_there(&registry, &repository, &unrecorded).await);
    let mut conn = world.pool.acquire().await.unwrap();
    builds::fail(&mut conn, next, &failure, None).await.unwrap();
    drop(conn);
    run(&sweeps, Part::Housekeeping, Utc::now()).await.unwrap().unwrap();
    assert!(!is_there(&registry, &repository, &unrecorded).await);
}

#[tokio::test]
async fn a_dependency_image_goes_when_no_function_has_stood_on_it_for_long() {
    const REPOSITORY: &str = "mecapy/staging/deps";
    let world = World::start().await;
    let registry = primary().await;
    let unused = image(&registry, REPOSITORY, &unique("unused")).await;
    let current = image(&registry, REPOSITORY, &unique("current")).await;
    let young = image(&registry, REPOSITORY, &unique("young")).await;
    for (version, image, days) in [(1, &unused, 31), (2, &young, 29), (3, &current, 400)] {
        let (build, _) = world.build(version).await;
        to_scanning(&world, build, "sha256:x").await;
        let mut conn = world.pool.acquire().await.unwrap();
        builds::scanned(&mut conn, build, "sha256:x", true).await.unwrap();
        builds::published(&mut conn, build, "image").await.unwrap();
        drop(conn);
        let set = format!("dependency_image = 'registry/{REPOSITORY}@{}'", image.digest);
        world.execute(&format!("update builds set {set} where id = '{build}'")).await;
        world.age(build, &format!("{days} days")).await;
    }
    let sweeps = world.sweeps_with(registry.clone(), options());
    let report = run(&sweeps, Part::Housekeeping, Utc::now()).await.unwrap().unwrap();
    assert_eq!(report.of("dependency_images"), 1);
    assert!(!is_there(&registry, REPOSITORY, &unused).await);
    assert!(is_there(&registry, REPOSITORY, &young).await);
    assert!(is_there(&registry, REPOSITORY, &current).await, "a live function runs on it");
}

#[tokio::test]
async fn a_sweep_that_has_no_time_left_is_gone_on_with_by_the_next() {
    let world = World::start().await;
    let infra = Infra::start(&[Server::Primary]).await;
    let registry = super::world::registry(infra.primary());
    let mut images = Vec::new();
    for function in 1..=3 {
        let repository = format!("mecapy/staging/user-nobody-func-{function}");
        for tag in ["v1-00000000", "v2-00000000"] {
            images.push((repository.clone(), image(&registry, &repository, tag).await));
        }
    }
    let none = Options { housekeeping_limit_seconds: 0, ..options() };
    let sweeps = world.sweeps_with(registry.clone(), none);
    let swept = async || run(&sweeps, Part::Housekeeping, Utc::now()).await.unwrap().unwrap();
    // Each is seen for the first time, one repository in a sweep.
    for _ in 0..3 {
        assert_eq!(swept().await.of("staging_images"), 0);
    }
    assert_eq!(world.count("staging_seen").await, 6);
    world.execute("update staging_seen set first_seen_at = now() - interval '25 hours'").await;
    for _ in 0..3 {
        assert_eq!(swept().await.of("staging_images"), 2, "one repository has its turn");
    }
    for (repository, image) in &images {
        assert!(!is_there(&registry, repository, image).await, "{repository}");
    }
    assert_eq!(swept().await.of("staging_images"), 0);
}
