//! Where images come from, and when they go.

use mecapy_registry::Options as RegistryOptions;
use mecapy_store::TaskState;
use mecapy_testkit::eventually;

use crate::world::{DOUBLE, LONG, World, docker, fallback, primary};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_from_the_fallback_when_the_primary_refuses() {
    let world = World::start().await;
    // Bound and not listened on: refused for as long as it is held.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused =
        RegistryOptions { host: socket.local_addr().unwrap().to_string(), ..primary().await };
    let worker = world.worker_with(|config| config.registries.primary = refused).await;
    let function = world.function_at(DOUBLE, &fallback().await, true).await;

    let task = world.run(&world.task(function.id, r#"{"n": 4}"#)).await;
    assert_eq!(
        (task.state, task.cache.as_deref()),
        (TaskState::Succeeded, Some("FAILOVER")),
        "{task:?}"
    );
    assert_eq!(task.digest, Some(function.digest.to_string()));
    let again = world.run(&world.task(function.id, r#"{"n": 4}"#)).await;
    assert_eq!(again.cache.as_deref(), Some("HIT"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_no_registry_has_is_not_found() {
    let world = World::start().await;
    let worker = world.worker_with(|config| config.registries.fallback = None).await;
    // On record, and on a registry that this worker doesn't know.
    let function = world.function_at(DOUBLE, &fallback().await, true).await;
    let task = world.run(&world.task(function.id, "{}")).await;
    assert_eq!(task.state, TaskState::Failed);
    assert_eq!(task.failure().unwrap().code, "image-not-found");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_keeps_its_limit_and_what_is_put_out_comes_back() {
    let world = World::start().await;
    // Under another name for its host, this worker sees only its own images.
    let host = primary().await.host.replace("127.0.0.1", "localhost");
    let limited = |config: &mut mecapy_worker::Config| {
        config.registries.primary.host = host.clone();
        config.registries.fallback = None;
        config.worker.cache.max_images = 1;
        // Parked containers would hold an image, and spare others the pull.
        config.worker.pool.enabled = false;
    };
    let worker = world.worker_with(limited).await;
    let (one, two) = (world.function(DOUBLE).await, world.function(DOUBLE).await);
    let name = |function: &crate::world::Function| {
        format!("{host}/{}@{}", function.repository, function.digest)
    };
    let run = async |function: &crate::world::Function| {
        let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
        assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
        task.cache.unwrap()
    };
    assert_eq!(run(&one).await, "MISS");
    assert!(world.is_here(&name(&one)));
    assert_eq!(run(&two).await, "MISS");
    eventually("the first image is put out", LONG, async || {
        (!world.is_here(&name(&one))).then_some(())
    })
    .await;
    assert!(world.is_here(&name(&two)));
    worker.stop().await;

    // A new process finds what the engine has.
    let worker = world.worker_with(limited).await;
    assert_eq!(run(&two).await, "HIT");
    // Somebody else removes it behind the worker's back.
    docker(&["image", "rm", &name(&two)]);
    assert!(!world.is_here(&name(&two)));
    assert_eq!(run(&two).await, "HIT", "it was thought to be there, and was pulled again");
    assert_eq!(run(&one).await, "MISS");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_need_one_image_at_once_pull_it_once() {
    let world = World::start().await;
    let worker = world.worker().await;
    let function = world.function(DOUBLE).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(world.send(&world.task(function.id, &format!("{{\"n\": {n}}}"))).await);
    }
    for id in ids {
        assert_eq!(world.end(id).await.state, TaskState::Succeeded);
    }
    worker.stop().await;
}
