//! Where images come from, and when they go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mecapy_bus::{DrainOrder, Drains, Workers};
use mecapy_proto::v1::TaskCancel;
use mecapy_registry::{ConfigPatch, Options as RegistryOptions};
use mecapy_store::{TaskState, tasks::Task};
use mecapy_testkit::{EngineFront, eventually, unique};
use mecapy_worker::Config;
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::containers::docker;
use crate::parked::without_root;
use crate::published::{BASE, fallback, primary, primary_by_another_name};
use crate::world::{DOUBLE, Function, LONG, WAIT, World};

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
    let (_turn, host) = primary_by_another_name().await;
    let world = World::start().await;
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
async fn an_image_whose_layers_the_engine_cannot_tell_keeps_no_worker_from_its_work() {
    let world = World::start().await;
    let function = world.function(DOUBLE).await;
    let run = async |front: &EngineFront| {
        let worker = world
            .worker_with(|config| {
                config.docker.host = Some(front.host());
                config.worker.pool.enabled = false;
            })
            .await;
        let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
        assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
        assert!(front.left() < usize::MAX, "it was not asked");
        worker.stop().await;
        task.cache.unwrap()
    };
    // Neither when it is pulled, nor at a start; nor at one where nothing is told of it at all.
    let without_layers = EngineFront::refusing("/history", 500, usize::MAX);
    assert_eq!(run(&without_layers).await, "MISS");
    assert_eq!(run(&without_layers).await, "HIT");
    let name = format!("{}/{}@{}", primary().await.host, function.repository, function.digest);
    let id = docker(&["image", "inspect", "--format", "{{.Id}}", &name]);
    let hex = id.trim().trim_start_matches("sha256:").to_owned();
    let untold = EngineFront::refusing(format!("{hex}/json").leak(), 500, usize::MAX);
    assert_eq!(run(&untold).await, "HIT");
}

/// In front of a registry: takes connections and passes on what comes when it is opened.
struct Front {
    host: String,
    is_open: watch::Sender<bool>,
    connections: Arc<AtomicUsize>,
}

async fn front(registry: String) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (is_open, opened) = watch::channel(false);
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let (registry, mut opened) = (registry.clone(), opened.clone());
            tokio::spawn(async move {
                opened.wait_for(|is_open| *is_open).await.unwrap();
                let mut server = TcpStream::connect(registry).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    Front { host, is_open, connections }
}

impl Front {
    async fn until_asked(&self) {
        eventually("the registry is asked", LONG, async || {
            (self.connections.load(Ordering::SeqCst) > 0).then_some(())
        })
        .await;
    }
}

/// How often the engine has pulled it, as it tells.
fn pulls(repository: &str) -> usize {
    // Until a moment that is to come: what has happened until now is told then.
    let until = (chrono::Utc::now().timestamp() + 2).to_string();
    let filter = ["--filter", "type=image", "--filter", "event=pull"];
    let times = ["--since", "30m", "--until", &until, "--format", "{{.Actor.ID}}"];
    let told = docker(&[&["events"][..], &filter, &times].concat());
    told.lines().filter(|image| image.contains(repository)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_need_one_image_at_once_pull_it_once_and_who_goes_away_does_not_end_that() {
    let world = World::start().await;
    let front = front(primary().await.host).await;
    let slow = RegistryOptions { host: front.host.clone(), ..primary().await };
    let worker = world
        .worker_with(|config| {
            config.registries.primary = slow;
            config.registries.fallback = None;
            config.worker.pool.enabled = false;
            config.worker.warm_up.enabled = false;
        })
        .await;
    let function = world.function(DOUBLE).await;
    world.forget(format!("{}/{}@{}", front.host, function.repository, function.digest));
    let first = world.send(&world.task(function.id, r#"{"n": 0}"#)).await;
    front.until_asked().await;
    let mut others = Vec::new();
    for n in 1..4 {
        others.push(world.send(&world.task(function.id, &format!("{{\"n\": {n}}}"))).await);
    }
    let workers = Workers::new(world.bus.clone());
    eventually("all of them wait for it", LONG, async || {
        let all = workers.list().await.unwrap();
        all.iter().find(|status| status.name == worker.name && status.running == 4).map(drop)
    })
    .await;
    let cancel = TaskCancel { task_id: first.to_string() };
    world.publish("task.cancel", cancel.encode_to_vec()).await;
    let gone = world.end(first).await;
    assert_eq!((gone.state, gone.attempt), (TaskState::Cancelled, 0), "{gone:?}");

    front.is_open.send_replace(true);
    for id in others {
        let task = world.end(id).await;
        assert_eq!((task.state, task.cache.as_deref()), (TaskState::Succeeded, Some("MISS")));
    }
    assert_eq!(pulls(&function.repository), 1);
    worker.stop().await;
}

/// A worker that keeps one image, and by its registry's other name sees those of no other test.
fn with_one_image(host: &str, config: &mut Config) {
    config.registries.primary.host = host.to_owned();
    config.registries.fallback = None;
    config.worker.cache.max_images = 1;
    config.worker.warm_up.enabled = false;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_stays_whatever_the_limit_and_so_does_one_that_no_worker_pulled() {
    let (_turn, host) = primary_by_another_name().await;
    let world = World::start().await;
    let foreign = format!("{host}/mecapy/functions/{}:v1", unique("user-foreign"));
    docker(&["tag", BASE, &foreign]);
    world.forget(foreign.clone());
    let worker = world
        .worker_with(|config| {
            with_one_image(&host, config);
            config.worker.pool.enabled = false;
        })
        .await;
    let (long, short) = (world.function(WAIT).await, world.function(DOUBLE).await);
    let is_here = |function: &Function| {
        world.is_here(&format!("{host}/{}@{}", function.repository, function.digest))
    };
    let id = world.send(&world.task(long.id, "{}")).await;
    world.until_it_runs(id).await;
    let task = world.run(&world.task(short.id, r#"{"n": 1}"#)).await;
    assert_eq!((task.state, task.cache.as_deref()), (TaskState::Succeeded, Some("MISS")));
    // It was used later.
    eventually("it is put out all the same", LONG, async || (!is_here(&short)).then_some(())).await;
    assert!(is_here(&long), "its task runs");
    assert_eq!(world.let_end(id).await.state, TaskState::Succeeded);

    let task = world.run(&world.task(short.id, r#"{"n": 1}"#)).await;
    assert_eq!((task.state, task.cache.as_deref()), (TaskState::Succeeded, Some("MISS")));
    eventually("now the other goes", LONG, async || (!is_here(&long)).then_some(())).await;
    assert!(is_here(&short) && world.is_here(&foreign));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_containers_wait_with_stay_whatever_the_limit() {
    if without_root() {
        return;
    }
    let (_turn, host) = primary_by_another_name().await;
    let world = World::start().await;
    let worker = world.worker_with(|config| with_one_image(&host, config)).await;
    // With other dependencies, as far as a worker can see.
    let mut functions = Vec::new();
    for place in ["one", "other"] {
        let env = [("PLACE".to_owned(), place.to_owned())].into();
        let patch = ConfigPatch { env, ..ConfigPatch::default() };
        functions.push(world.function_as(DOUBLE, &primary().await, true, patch).await);
    }
    let here = || {
        let name =
            |function: &Function| format!("{host}/{}@{}", function.repository, function.digest);
        functions.iter().filter(|function| world.is_here(&name(function))).count()
    };
    for function in &functions {
        let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
        assert_eq!((task.state, task.cache.as_deref()), (TaskState::Succeeded, Some("MISS")));
    }
    let (workers, asked_at) = (Workers::new(world.bus.clone()), chrono::Utc::now());
    eventually("containers wait with both", LONG, async || {
        let all = workers.list().await.unwrap();
        let status = all.into_iter().find(|status| status.name == worker.name)?;
        let waiting = status.parked.iter().filter(|parked| parked.waiting > 0).count();
        (status.seen_at > asked_at && waiting == 2).then_some(())
    })
    .await;
    assert_eq!(here(), 2);
    let order = DrainOrder { worker: worker.name.clone(), ..DrainOrder::default() };
    Drains::new(world.bus.clone()).give(&order).await.unwrap();
    eventually("the limit holds when they are given back", LONG, async || {
        (here() == 1).then_some(())
    })
    .await;
    worker.stop().await;
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

    front.is_open.send_replace(true);
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
