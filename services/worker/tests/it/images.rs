//! Where images come from, and when they go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mecapy_bus::Workers;
use mecapy_registry::Options as RegistryOptions;
use mecapy_store::{TaskState, tasks::Task};
use mecapy_testkit::eventually;
use tokio::net::{TcpListener, TcpStream};

use crate::containers::docker;
use crate::published::{fallback, primary};
use crate::world::{DOUBLE, LONG, World};

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

/// In front of a registry: takes connections and says nothing, until it is opened.
struct Front {
    host: String,
    is_open: Arc<AtomicBool>,
}

async fn front(registry: String) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let is_open = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&is_open);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            if !opened.load(Ordering::SeqCst) {
                held.push(client);
                continue;
            }
            let registry = registry.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(registry).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    Front { host, is_open }
}

fn fetch_ms(task: &Task) -> u64 {
    let timings = task.timings.as_ref().unwrap_or_else(|| panic!("{task:?}"));
    timings["fetchMs"].as_str().map_or(0, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_never_answers_costs_one_task_its_limit_and_is_asked_again_when_it_does() {
    // Far more than a pull from the fallback takes: what is quicker has not waited for the silent one. After 25 s the
    // engine would give it up by itself.
    const LIMIT_SECONDS: u64 = 20;
    let world = World::start().await;
    let front = front(primary().await.host).await;
    let silent = RegistryOptions { host: front.host.clone(), ..primary().await };
    let worker = world
        .worker_with(|config| {
            config.registries.primary = silent;
            config.worker.cache.pull_timeout_seconds = LIMIT_SECONDS;
            // What waits would spare others the pull.
            config.worker.pool.enabled = false;
        })
        .await;
    let mut times = Vec::new();
    for _ in 0..3 {
        let function = world.function_at(DOUBLE, &fallback().await, true).await;
        let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
        assert_eq!(task.cache.as_deref(), Some("FAILOVER"), "{task:?}");
        times.push(fetch_ms(&task));
    }
    let limit = LIMIT_SECONDS * 1000;
    assert!(times[0] >= limit && times[1..].iter().all(|time| *time < limit), "{times:?}");

    front.is_open.store(true, Ordering::SeqCst);
    let workers = Workers::new(world.bus.clone());
    let primary_is = async |state: &str| {
        let all = workers.list().await.unwrap();
        let worker = all.into_iter().find(|status| status.name == worker.name)?;
        worker.registries.iter().any(|r| r.host == front.host && r.breaker == state).then_some(())
    };
    eventually("a ping finds it", LONG, async || primary_is("half-open").await).await;
    let function = world.function(DOUBLE).await;
    world.forget(format!("{}/{}@{}", front.host, function.repository, function.digest));
    let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
    assert_eq!((task.state, task.cache.as_deref()), (TaskState::Succeeded, Some("MISS")));
    eventually("it is asked in its turn", LONG, async || primary_is("closed").await).await;
    worker.stop().await;
}
