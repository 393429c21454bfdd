//! Which containers wait: those that die, that nobody asks for, and where none can.

use std::fs::File;

use mecapy_registry::Digest;
use mecapy_store::TaskState;
use mecapy_testkit::{eventually, unique};

use crate::containers::{containers_of, docker, parked_of};
use crate::parked::{IS_PARKED, result, run_parked, without_root};
use crate::published::primary;
use crate::world::{DOUBLE, LONG, WAIT, World};

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_dies_is_passed_over_and_replaced() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let function = world.function(IS_PARKED).await;
    let killed = parked_of(&worker.name);
    for id in killed.lines() {
        docker(&["kill", id]);
    }
    let task = world.run(&world.task(function.id, "{}")).await;
    assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
    // Until the worker knows of all that they are dead, it may take one of them for one that waits.
    eventually("the dead are removed", LONG, async || {
        let left = containers_of(&worker.name);
        killed.lines().all(|id| !left.contains(id)).then_some(())
    })
    .await;
    // The first time, its code may not have come soon enough.
    eventually("it runs in one of those that replace them", LONG, async || {
        let again = run_parked(&world, &worker, &world.task(function.id, "{}")).await;
        (result(&world, &again).await == "true").then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_when_nobody_asks_for_it_any_more() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with(|config| config.worker.pool.idle_seconds = 20).await;
    let function = world.function(DOUBLE).await;
    eventually("one waits", LONG, async || {
        let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
        assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
        (!parked_of(&worker.name).is_empty()).then_some(())
    })
    .await;
    eventually("nothing waits any more", LONG, async || {
        containers_of(&worker.name).is_empty().then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_leaves_the_plain_path() {
    let world = World::start().await;
    let function = world.function(DOUBLE).await;
    // Nobody can make a folder there.
    let worker =
        world.worker_with(|config| config.worker.pool.directory = "/proc/self/task".into()).await;
    for n in 0..3 {
        let task = world.run(&world.task(function.id, &format!("{{\"n\": {n}}}"))).await;
        assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
    }
    assert_eq!(parked_of(&worker.name), "");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_name_another_process_has_parks_nothing_until_that_one_has_ended() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let name = unique("worker");
    let directory = std::env::temp_dir().join(unique("mecapy-worker-pool"));
    let folder = directory.join(&Digest::of(name.as_bytes()).hex()[..16]);
    // As the other holds it.
    std::fs::create_dir(&directory).unwrap();
    let lock = File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let worker = world
        .worker_with(|config| {
            config.worker.name = Some(name.clone());
            config.worker.pool.directory = directory.clone();
        })
        .await;
    let function = world.function(DOUBLE).await;
    let run = async || {
        let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
        assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
    };
    for _ in 0..3 {
        run().await;
    }
    assert!(parked_of(&name).is_empty() && !folder.exists(), "the folder is another's");

    drop(lock);
    eventually("a container waits", LONG, async || {
        run().await;
        (!parked_of(&name).is_empty()).then_some(())
    })
    .await;
    assert!(folder.is_dir());
    worker.stop().await;
    // What was being started when it ended goes when it has come up.
    eventually("it leaves nothing", LONG, async || {
        std::fs::read_dir(&directory).unwrap().next().is_none().then_some(())
    })
    .await;
    std::fs::remove_dir(&directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_tasks_than_containers_that_wait_need_no_image_where_their_dependencies_are_here() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world
        .worker_with_parked(|config| {
            config.worker.slots = Some(4);
            config.worker.pool.max_per_dependencies = 1;
        })
        .await;
    let host = primary().await.host;
    // Where the registry takes long for its code a task is not kept waiting for it; then it is another function's turn.
    eventually("each gets a container for its code", LONG, async || {
        let function = world.function(WAIT).await;
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(world.send(&world.task(function.id, "{}")).await);
        }
        // All at once: none of them makes room for another.
        for id in &ids {
            world.until_it_runs(*id).await;
        }
        let mut hits = 0;
        for id in ids {
            let task = world.let_end(id).await;
            assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
            hits += usize::from(task.cache.as_deref() == Some("HIT"));
        }
        let image = format!("{host}/{}@{}", function.repository, function.digest);
        (hits == 4 && !world.is_here(&image)).then_some(())
    })
    .await;
    worker.stop().await;
}
