//! Tasks of one function on several workers.

use std::collections::BTreeSet;

use mecapy_store::TaskState;
use mecapy_testkit::eventually;

use crate::world::{DOUBLE, Function, LONG, Running, WAIT, World};

const SLOTS: usize = 2;

async fn two_workers(world: &World) -> [Running; 2] {
    // Nothing is fetched or started ahead: who has an image has it from a task. Two slots: one is free for the next task
    // while the last one's container is being removed.
    let worker = || {
        world.worker_with(|config| {
            config.worker.slots = Some(SLOTS);
            config.worker.pool.enabled = false;
            config.worker.warm_up.enabled = false;
        })
    };
    let workers = [worker().await, worker().await];
    eventually("they see each other", LONG, async || {
        let live = mecapy_bus::Workers::new(world.bus.clone()).list().await.unwrap();
        (live.len() == 2).then_some(())
    })
    .await;
    workers
}

/// Runs a task; who ran it, and whether the image was there.
async fn run(world: &World, function: &Function) -> (String, String) {
    let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
    assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
    (task.worker.unwrap(), task.cache.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_functions_tasks_go_to_one_worker_as_long_as_it_has_a_free_slot() {
    let world = World::start().await;
    let [one, two] = two_workers(&world).await;
    // Each has a home, and after a few, both are the home of some. Those of the first moment, when the workers may not
    // have heard of each other, say nothing.
    let mut homes = Vec::new();
    for _ in 0..30 {
        let function = world.function(DOUBLE).await;
        let (home, cache) = run(&world, &function).await;
        let mut keeps_to_it = cache == "MISS";
        for _ in 0..3 {
            keeps_to_it &= run(&world, &function).await == (home.clone(), "HIT".to_owned());
        }
        match keeps_to_it {
            true => homes.push(home),
            false => homes.clear(),
        }
        if homes.len() >= 5 && homes.iter().any(|home| *home != homes[0]) {
            break;
        }
    }
    assert!(homes.len() >= 5 && homes.iter().any(|home| *home != homes[0]), "{homes:?}");

    // Where the home is busy, nobody waits for it.
    let function = world.function(WAIT).await;
    let mut running = Vec::new();
    for _ in 0..=SLOTS {
        let task = world.send(&world.task(function.id, "{}")).await;
        world.until_it_runs(task).await;
        running.push(task);
    }
    let mut workers = BTreeSet::new();
    for task in running {
        let ended = world.let_end(task).await;
        assert_eq!(ended.attempt, 1);
        workers.extend(ended.worker);
    }
    assert_eq!(workers.len(), 2);
    world.until_nothing_waits().await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_functions_home_ends_another_worker_runs_its_tasks() {
    let world = World::start().await;
    let [one, two] = two_workers(&world).await;
    let function = world.function(DOUBLE).await;
    let (home, _) = run(&world, &function).await;
    let (home, other) = if home == one.name { (one, two) } else { (two, one) };
    home.stop().await;
    let (worker, _) = run(&world, &function).await;
    assert_eq!(worker, other.name);
    other.stop().await;
}
