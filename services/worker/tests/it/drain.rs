//! A worker that an operator drains, and takes back.

use mecapy_bus::{DrainOrder, Drains, WorkerStatus, Workers};
use mecapy_store::TaskState;
use mecapy_testkit::eventually;

use crate::containers::{containers_of, may_park, parked_of};
use crate::world::{DOUBLE, LONG, Running, WAIT, World};

async fn drain(world: &World, worker: &Running) {
    let order = DrainOrder { worker: worker.name.clone(), ..DrainOrder::default() };
    Drains::new(world.bus.clone()).give(&order).await.unwrap();
}

async fn resume(world: &World, worker: &Running) {
    Drains::new(world.bus.clone()).lift(&worker.name).await.unwrap();
}

async fn until_it_is(world: &World, worker: &Running, state: &str) -> WorkerStatus {
    let workers = Workers::new(world.bus.clone());
    eventually(&format!("it says that it is {state}"), LONG, async || {
        let all = workers.list().await.unwrap();
        all.into_iter().find(|status| status.name == worker.name && status.state() == state)
    })
    .await
}

/// Runs a task of a function that nobody knows yet: any worker may be its home. Who ran it.
async fn run(world: &World) -> String {
    let function = world.function(DOUBLE).await;
    let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 1), "{task:?}");
    task.worker.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_finishes_what_it_has_and_takes_nothing_until_it_is_taken_back() {
    let world = World::start().await;
    let one = world.worker_with(|config| config.worker.warm_up.enabled = false).await;
    let function = world.function(WAIT).await;
    let running = world.send(&world.task(function.id, "{}")).await;
    world.until_it_runs(running).await;
    drain(&world, &one).await;
    assert_eq!(until_it_is(&world, &one, "draining").await.running, 1);

    // The other runs what comes, of whichever function.
    let two = world.worker_with(|config| config.worker.warm_up.enabled = false).await;
    for _ in 0..6 {
        assert_eq!(run(&world).await, two.name);
    }
    let ended = world.let_end(running).await;
    assert_eq!((ended.state, ended.attempt), (TaskState::Succeeded, 1), "{ended:?}");
    assert_eq!(ended.worker.as_deref(), Some(one.name.as_str()));
    assert_eq!(until_it_is(&world, &one, "drained").await.running, 0);

    // What comes while nobody takes anything waits, and is not lost.
    drain(&world, &two).await;
    until_it_is(&world, &two, "drained").await;
    let function = world.function(DOUBLE).await;
    let waiting = world.send(&world.task(function.id, r#"{"n": 2}"#)).await;
    resume(&world, &one).await;
    let ended = world.end(waiting).await;
    assert_eq!((ended.state, ended.attempt), (TaskState::Succeeded, 1), "{ended:?}");
    assert_eq!(ended.worker.as_deref(), Some(one.name.as_str()));
    until_it_is(&world, &one, "free").await;
    world.until_nothing_waits().await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_drained_takes_nothing_after_a_restart_either() {
    let world = World::start().await;
    let one = world.worker().await;
    drain(&world, &one).await;
    until_it_is(&world, &one, "drained").await;
    let name = one.name.clone();
    one.stop().await;

    let function = world.function(DOUBLE).await;
    let waiting = world.send(&world.task(function.id, r#"{"n": 2}"#)).await;
    // It is ready, and takes nothing.
    let one = world.worker_with(|config| config.worker.name = Some(name)).await;
    until_it_is(&world, &one, "drained").await;
    assert!(world.look(waiting).await.is_none(), "it would have made the task's row");
    resume(&world, &one).await;
    assert_eq!(world.end(waiting).await.state, TaskState::Succeeded);
    one.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_has_no_container_that_waits_and_parks_again_when_it_is_taken_back() {
    if !may_park() {
        eprintln!("not tested: containers can be parked by root only");
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    drain(&world, &worker).await;
    eventually("its containers are given back", LONG, async || {
        containers_of(&worker.name).is_empty().then_some(())
    })
    .await;
    assert!(until_it_is(&world, &worker, "drained").await.parked.is_empty());
    assert!(parked_of(&worker.name).is_empty());

    resume(&world, &worker).await;
    assert_eq!(run(&world).await, worker.name);
    world.until_one_waits(&worker).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_read_is_obeyed_until_it_is_lifted() {
    let world = World::start().await;
    let one = world.worker_with(|config| config.worker.warm_up.enabled = false).await;
    let bucket = async_nats::jetstream::new(world.client.clone()).get_key_value("drains").await;
    let key = WorkerStatus { name: one.name.clone(), ..WorkerStatus::default() }.key();
    bucket.unwrap().put(key, "{\"worker\": 7}".into()).await.unwrap();
    until_it_is(&world, &one, "drained").await;
    let function = world.function(DOUBLE).await;
    let waiting = world.send(&world.task(function.id, r#"{"n": 2}"#)).await;
    resume(&world, &one).await;
    let ended = world.end(waiting).await;
    assert_eq!((ended.state, ended.attempt), (TaskState::Succeeded, 1), "{ended:?}");
    until_it_is(&world, &one, "free").await;
    one.stop().await;
}
