//! Copies of a message, attempts, and what a worker leaves behind.

use mecapy_proto::v1::TaskStatus;
use mecapy_store::tasks::{self, Completion};
use mecapy_store::{TaskState, inbox};
use mecapy_testkit::{eventually, unique};

use crate::containers::{container_exists, containers_of, docker, let_go, may_park, parked_of};
use crate::world::{DOUBLE, LONG, WAIT, World, code, row};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_several_times_runs_once() {
    let world = World::start().await;
    let (first, second) = (world.worker().await, world.worker().await);
    let function = world.function(WAIT).await;
    let dispatch = world.task(function.id, "{}");
    let id = world.send(&dispatch).await;
    world.until_it_runs(id).await;
    for _ in 0..5 {
        world.send(&dispatch).await;
    }
    let task = world.let_end(id).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 1));
    world.until_nothing_waits().await;
    // And once more, after its end.
    world.send(&dispatch).await;
    world.until_nothing_waits().await;
    let done = world.done(id).await;
    assert_eq!((done.len(), done[0].attempt), (1, 1));
    assert_eq!(world.look(id).await.unwrap().attempt, 1);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_overtaken_leaves_no_trace() {
    let world = World::start().await;
    let worker = world.worker().await;
    let function = world.function(WAIT).await;
    let id = world.send(&world.task(function.id, "{}")).await;
    world.until_it_runs(id).await;
    // Another worker, which the engine and the queue know nothing of.
    let claimed = tasks::claim(&world.pool, id, "another").await.unwrap().unwrap();
    assert_eq!(claimed.attempt, 2);
    eventually("the overtaken container has ended", LONG, async || {
        let_go(id);
        (!container_exists(id)).then_some(())
    })
    .await;
    eventually("it has noticed", LONG, async || {
        world.object(&format!("tasks/{id}/1/result.json")).await.map(drop)
    })
    .await;
    let task = world.look(id).await.unwrap();
    assert_eq!(
        (task.state, task.attempt, task.worker.as_deref()),
        (TaskState::Running, 2, Some("another"))
    );
    assert!(!inbox::contains(&world.pool, "worker", &format!("task.dispatch/{id}")).await.unwrap());

    let mut transaction = world.pool.begin().await.unwrap();
    let end = Completion {
        state: TaskState::Succeeded,
        digest: None,
        cache: None,
        timings: Default::default(),
        result_key: Some("theirs".to_owned()),
        exit_code: Some(0),
        failure: None,
    };
    assert!(tasks::complete(&mut transaction, id, 2, &end).await.unwrap());
    transaction.commit().await.unwrap();
    world.until_nothing_waits().await;
    assert_eq!(world.look(id).await.unwrap().result_key.as_deref(), Some("theirs"));
    assert!(world.done_so_far(id).await.is_empty(), "the overtaken attempt told of an end");
    assert_eq!(
        world.results.get(id).await.unwrap(),
        None,
        "the overtaken attempt's result is in the bucket"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_handed_back_runs_on_another_worker() {
    let world = World::start().await;
    let first = world.worker().await;
    let function = world.function(WAIT).await;
    let id = world.send(&world.task(function.id, "{}")).await;
    world.until_it_runs(id).await;
    first.hand_back.cancel();
    first.stop().await;
    let second = world.worker().await;
    let task = world.let_end(id).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 2));
    assert_eq!(task.worker.as_deref(), Some(second.name.as_str()));
    assert_eq!(task.result_key, Some(format!("tasks/{id}/2/result.json")));
    assert_eq!(world.done(id).await.len(), 1);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_workers_all_died_is_lost() {
    let world = World::start().await;
    let function = world.function(DOUBLE).await;
    let dispatch = world.task(function.id, r#"{"n": 1}"#);
    let id = dispatch.task_id.parse().unwrap();
    let mut conn = world.pool.acquire().await.unwrap();
    tasks::create(&mut conn, &row(id, &function)).await.unwrap();
    for _ in 0..3 {
        tasks::claim(&world.pool, id, "dead").await.unwrap().unwrap();
    }
    world.send(&dispatch).await;
    world.hand_back_once().await;
    let worker = world.worker().await;
    let task = world.end(id).await;
    assert_eq!(
        (task.state, task.attempt, code(&task).as_deref()),
        (TaskState::Lost, 3, Some("task-lost"))
    );
    let done = world.done(id).await;
    assert_eq!((done.len(), done[0].status(), done[0].attempt), (1, TaskStatus::Lost, 3));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_worker_died_runs_again_and_its_container_makes_way() {
    let world = World::start().await;
    let function = world.function(DOUBLE).await;
    let dispatch = world.task(function.id, r#"{"n": 1}"#);
    let id = world.send(&dispatch).await;
    let mut conn = world.pool.acquire().await.unwrap();
    tasks::create(&mut conn, &row(id, &function)).await.unwrap();
    tasks::claim(&world.pool, id, "dead").await.unwrap().unwrap();
    let (task_label, name) = (format!("org.mecapy.task.id={id}"), format!("mecapy-task-{id}"));
    docker(&[
        "run",
        "--detach",
        "--name",
        &name,
        "--label",
        &task_label,
        "--label",
        "org.mecapy.task.attempt=1",
        "mecapy/base/python:3.11-slim",
        "sleep",
        "600",
    ]);
    world.hand_back_once().await;
    let worker = world.worker().await;
    let task = world.end(id).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 2));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_removes_what_its_dead_predecessor_left_and_nobody_elses() {
    let world = World::start().await;
    let (own, other) = (unique("worker"), unique("worker"));
    for worker in [&own, &other] {
        let (name, label) = (unique("mecapy-task"), format!("org.mecapy.worker={worker}"));
        docker(&[
            "run",
            "--detach",
            "--name",
            &name,
            "--label",
            &label,
            "mecapy/base/python:3.11-slim",
            "sleep",
            "600",
        ]);
        assert_ne!(containers_of(worker), "");
    }
    let worker = world.worker_with(|config| config.worker.name = Some(own.clone())).await;
    eventually("its own are removed", LONG, async || containers_of(&own).is_empty().then_some(()))
        .await;
    assert_ne!(containers_of(&other), "");
    docker(&["rm", "--force", containers_of(&other).trim()]);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_does_not_account_for_is_removed_while_it_works() {
    let world = World::start().await;
    let worker =
        if may_park() { world.worker_with_parked(|_| ()).await } else { world.worker().await };
    let function = world.function(WAIT).await;
    let id = world.send(&world.task(function.id, "{}")).await;
    world.until_it_runs(id).await;
    // As of a removal that failed: with the label of a task that is not in hand, and of a container that nobody waits for.
    let of_worker = format!("org.mecapy.worker={}", worker.name);
    let strays =
        ["org.mecapy.task.id=018f4e3e-0000-7000-8000-00000000000a", "org.mecapy.parked=no-slot"]
            .map(|label| {
                let name = unique("mecapy-task");
                let run =
                    ["run", "--detach", "--name", &name, "--label", &of_worker, "--label", label];
                docker(&[&run[..], &["mecapy/base/python:3.11-slim", "sleep", "600"]].concat())
            });
    eventually("the strays are removed", LONG, async || {
        let left = containers_of(&worker.name);
        strays.iter().all(|id| !left.contains(&id[..12])).then_some(())
    })
    .await;
    assert!(container_exists(id), "the task's container is accounted for");
    if may_park() {
        assert_ne!(parked_of(&worker.name), "");
    }
    let task = world.let_end(id).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 1), "{task:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_in_a_parked_container_is_handed_back_and_runs_on_another_worker() {
    if !may_park() {
        return;
    }
    let world = World::start().await;
    let first = world.worker_with_parked(|_| ()).await;
    let function = world.function(WAIT).await;
    let id = world.send(&world.task(function.id, "{}")).await;
    world.until_it_runs(id).await;
    first.hand_back.cancel();
    first.stop().await;
    assert_eq!(world.look(id).await.unwrap().attempt, 1);
    let second = world.worker_with_parked(|_| ()).await;
    let task = world.let_end(id).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 2));
    assert_eq!(task.worker.as_deref(), Some(second.name.as_str()));
    assert_eq!(world.done(id).await.len(), 1);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_workers_container_makes_way_for_a_short_task_in_a_parked_one() {
    if !may_park() {
        return;
    }
    let world = World::start().await;
    let function = world.function(DOUBLE).await;
    let dispatch = world.task(function.id, r#"{"n": 1}"#);
    let id = dispatch.task_id.parse().unwrap();
    // As a worker leaves it that dies while a container that had waited runs the task.
    let name = format!("mecapy-task-{id}");
    docker(&[
        "run",
        "--detach",
        "--name",
        &name,
        "--label",
        "org.mecapy.parked=of-a-dead-worker",
        "mecapy/base/python:3.11-slim",
        "sleep",
        "600",
    ]);
    let mut conn = world.pool.acquire().await.unwrap();
    tasks::create(&mut conn, &row(id, &function)).await.unwrap();
    tasks::claim(&world.pool, id, "dead").await.unwrap().unwrap();
    world.send(&dispatch).await;
    world.hand_back_once().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let task = world.end(id).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 2));
    worker.stop().await;
}
