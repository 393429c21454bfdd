//! Functions whose tasks may share a container.

use mecapy_store::TaskState;
use mecapy_testkit::eventually;

use crate::containers::{containers_of, parked_of};
use crate::parked::{result, run_parked, without_root};
use crate::world::{Function, LONG, Running, World};

/// Which container it runs in.
const WHERE: &str = r#"
import json, os, socket
if json.load(open("/inputs.json")) == "fail":
    raise SystemExit(1)
json.dump(socket.gethostname(), open("/output.json", "w"))
"#;

async fn place(world: &World, worker: &Running, function: &Function) -> String {
    let task = run_parked(world, worker, &world.task(function.id, "{}")).await;
    assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
    result(world, &task).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_share_a_container_as_often_as_their_function_asks_and_with_no_other_function() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let function = world.function(&format!("# mecapy: reuse 3\n{WHERE}")).await;
    let other = world.function(&format!("# mecapy: reuse 3\n{WHERE}#")).await;
    let without = world.function(WHERE).await;
    // The first may run in a container of its own image, where the registry takes long for its code.
    let mut places = Vec::new();
    eventually("three in a row run in one container", LONG, async || {
        places.push(place(&world, &worker, &function).await);
        let last = places.iter().rev().take_while(|place| *place == &places[places.len() - 1]);
        (last.count() == 3).then_some(())
    })
    .await;
    places.push(place(&world, &worker, &function).await);
    assert_ne!(places[places.len() - 2], places[places.len() - 1], "it asked for three");
    for function in [&other, &without] {
        let elsewhere = place(&world, &worker, function).await;
        assert!(!places.contains(&elsewhere), "it ran where another function had: {places:?}");
    }
    let mut alone = Vec::new();
    for _ in 0..3 {
        alone.push(place(&world, &worker, &without).await);
    }
    assert!(alone.windows(2).all(|two| two[0] != two[1]), "{alone:?}");
    let name = worker.name.clone();
    worker.stop().await;
    eventually("none is left", LONG, async || containers_of(&name).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_in_which_a_task_failed_has_no_other_and_an_operator_may_forbid_it() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let function = world.function(&format!("# mecapy: reuse 100\n{WHERE}")).await;
    eventually("two run in one container", LONG, async || {
        let places =
            [place(&world, &worker, &function).await, place(&world, &worker, &function).await];
        (places[0] == places[1]).then_some(())
    })
    .await;
    let before = place(&world, &worker, &function).await;
    let failed = run_parked(&world, &worker, &world.task(function.id, "\"fail\"")).await;
    assert_eq!(failed.state, TaskState::Failed);
    assert_ne!(place(&world, &worker, &function).await, before);
    worker.stop().await;

    let worker = world.worker_with_parked(|config| config.worker.pool.max_uses = 1).await;
    let mut places = Vec::new();
    for _ in 0..4 {
        places.push(place(&world, &worker, &function).await);
    }
    assert!(places.windows(2).all(|two| two[0] != two[1]), "{places:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_goes_after_a_minute_without_a_task_and_what_waits_for_anybody_stays() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let function = world.function(&format!("# mecapy: reuse 100\n{WHERE}")).await;
    let kept = eventually("one is kept", LONG, async || {
        let places =
            [place(&world, &worker, &function).await, place(&world, &worker, &function).await];
        (places[0] == places[1]).then(|| places[0].trim_matches('"').to_owned())
    })
    .await;
    // By its name a container knows itself as the engine lists it.
    eventually("it goes", LONG, async || {
        (!containers_of(&worker.name).contains(&kept)).then_some(())
    })
    .await;
    assert_ne!(parked_of(&worker.name), "");
    world.until_one_waits(&worker).await;
    assert_ne!(place(&world, &worker, &function).await.trim_matches('"'), kept);
    worker.stop().await;
}
