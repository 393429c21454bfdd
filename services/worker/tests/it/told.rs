//! What a worker tells while it works: that it lives, and what functions write; and what it hears of.

use futures::StreamExt as _;
use mecapy_bus::{Live, Position, Workers};
use mecapy_proto::v1::{PushDone, TaskCancel};
use mecapy_proto::{BuildId, TaskId};
use mecapy_registry::Registry;
use mecapy_store::{TaskState, bases, builds};
use mecapy_testkit::{eventually, unique};
use mecapy_worker::Config;
use prost::Message as _;

use crate::containers::{docker, may_park};
use crate::published::{BASE_REPOSITORY, base, primary, primary_by_another_name};
use crate::world::{DOUBLE, Function, LONG, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_tells_what_it_has_for_as_long_as_it_lives() {
    let world = World::start().await;
    let worker = world.worker().await;
    let workers = Workers::new(world.bus.clone());
    let status = async || {
        let all = workers.list().await.unwrap();
        all.into_iter().find(|status| status.name == worker.name)
    };
    let first = eventually("it tells of itself", LONG, status).await;
    assert_eq!((first.slots, first.is_stopping), (4, false));
    assert!(first.registries.iter().all(|registry| registry.breaker == "closed"), "{first:?}");

    let function = world.function(DOUBLE).await;
    world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
    eventually("it tells of its image", LONG, async || {
        let digest = function.digest.to_string();
        status().await.filter(|status| status.images.contains(&digest) && status.image_bytes > 0)
    })
    .await;
    let name = worker.name.clone();
    worker.stop().await;
    assert!(workers.list().await.unwrap().iter().all(|status| status.name != name));
}

/// What who comes now is told of a task's log: so many bytes. None: all of it.
async fn follow(world: &World, id: TaskId, bytes: Option<usize>) -> String {
    // Where no answer is late, however slow the machine is.
    let live = Live::new(world.bus.clone()).with_answers_within(LONG);
    let mut log = Box::pin(live.follow_task_log(id, Position::default()).await.unwrap());
    let (mut told, mut is_whole) = (String::new(), false);
    while bytes.map_or(!is_whole, |bytes| told.len() < bytes) {
        let words = tokio::time::timeout(LONG, log.next()).await.unwrap().unwrap();
        told += &words.text;
        is_whole = words.is_last;
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_writes_is_heard_while_it_runs() {
    let world = World::start().await;
    let worker =
        if may_park() { world.worker_with_parked(|_| ()).await } else { world.worker().await };
    let function = world
        .function(
            "import sys, time\nprint('one')\nprint('two', file=sys.stderr)\ntime.sleep(600)\n",
        )
        .await;
    // In the container that waits, and, since it is taken then, in one of its own.
    let tasks = [world.task(function.id, "{}"), world.task(function.id, "{}")];
    for task in &tasks {
        let id = task.task_id.parse().unwrap();
        let mut words =
            Box::pin(Live::new(world.bus.clone()).task_log(id).subscribe().await.unwrap());
        world.bus.flush().await;
        world.send(task).await;
        let mut heard = String::new();
        while !(heard.contains("one\n") && heard.contains("two\n")) {
            heard += &tokio::time::timeout(LONG, words.next()).await.unwrap().unwrap();
        }
        // Who comes late hears the same.
        assert_eq!(follow(&world, id, Some(heard.len())).await, heard);
        // It may begin before its task is taken, and is heard after that.
        assert_eq!(world.look(id).await.unwrap().state, TaskState::Running);
    }
    for task in &tasks {
        let id = task.task_id.parse().unwrap();
        let cancel = TaskCancel { task_id: task.task_id.clone() };
        world.publish("task.cancel", cancel.encode_to_vec()).await;
        assert_eq!(world.end(id).await.state, TaskState::Cancelled);
        // So does who comes when all is over, and knows that it has all.
        let whole = follow(&world, id, None).await;
        assert!(whole.contains("one\n") && whole.contains("two\n"), "{whole}");
    }
    worker.stop().await;
}

fn published(function: &Function, host: &str) -> Vec<u8> {
    PushDone {
        function_id: function.id.get(),
        image: format!("{host}/{}:v1@{}", function.repository, function.digest),
        digest: function.digest.to_string(),
        size_bytes: 1,
        ..PushDone::default()
    }
    .encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_ready_before_its_first_task_if_it_passed_its_scan() {
    let world = World::start().await;
    let host = primary().await.host;
    let unscanned = world.function_at(DOUBLE, &primary().await, false).await;
    let one = world.function(DOUBLE).await;
    let worker = world.worker().await;
    let name = |function: &Function| format!("{host}/{}@{}", function.repository, function.digest);
    // Until it listens.
    eventually("what is published is fetched", LONG, async || {
        world.publish("push.done", published(&unscanned, &host)).await;
        world.publish("push.done", published(&one, &host)).await;
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        world.is_here(&name(&one)).then_some(())
    })
    .await;
    assert!(!world.is_here(&name(&unscanned)), "it has no PASSED scan");
    if may_park() {
        // Where the registry takes more than two seconds for its code it is not waited for; then it is another's turn.
        eventually("one is ready by its code alone", LONG, async || {
            let two = world.function(DOUBLE).await;
            world.until_one_waits(&worker).await;
            world.publish("push.done", published(&two, &host)).await;
            let task = world.run(&world.task(two.id, r#"{"n": 1}"#)).await;
            assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
            (task.cache.as_deref() == Some("HIT") && !world.is_here(&name(&two))).then_some(())
        })
        .await;
    }
    let task = world.run(&world.task(one.id, r#"{"n": 1}"#)).await;
    assert_eq!((task.state, task.cache.as_deref()), (TaskState::Succeeded, Some("HIT")));
    worker.stop().await;
}

/// As the builder and what comes after it leave a base image. By this name no other test has it.
async fn base_image(world: &World, host: &str) -> String {
    base().await;
    let registry = Registry::new(&primary().await).unwrap();
    let digest = registry.resolve(BASE_REPOSITORY, "test").await.unwrap().unwrap().digest;
    let (image, id) = (format!("{host}/{BASE_REPOSITORY}@{digest}"), BuildId::new());
    world.forget(image.clone());
    let mut conn = world.pool.acquire().await.unwrap();
    let cells = [(id, "3.11-slim".to_owned())];
    assert!(bases::create_run(&mut conn, &unique("run"), "manual", &cells).await.unwrap());
    builds::start(&world.pool, id).await.unwrap();
    let built = builds::Built {
        staging_image: image.clone(),
        digest: digest.to_string(),
        tag: "3.11-slim".to_owned(),
        size_bytes: 1,
        dependency_image: String::new(),
        lock_key: None,
        log_key: String::new(),
        duration_ms: 1,
    };
    assert!(builds::built(&mut conn, id, &built).await.unwrap());
    assert!(builds::scanned(&mut conn, id, &digest.to_string(), true).await.unwrap());
    assert!(builds::published(&mut conn, id, &image).await.unwrap());
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn base_images_are_fetched_at_start_and_nothing_that_there_is_no_room_for() {
    let (_turn, host) = primary_by_another_name().await;
    let world = World::start().await;
    let image = base_image(&world, &host).await;
    let function = world.function(DOUBLE).await;
    let small = |config: &mut Config| {
        config.registries.primary.host = host.clone();
        config.registries.fallback = None;
        config.worker.cache.max_images = 1;
        config.worker.pool.enabled = false;
    };
    let worker = world.worker_with(small).await;
    eventually("the base image is fetched", LONG, async || world.is_here(&image).then_some(()))
        .await;
    assert_eq!(
        world.run(&world.task(function.id, r#"{"n": 1}"#)).await.state,
        TaskState::Succeeded
    );
    docker(&["image", "rm", &image]);
    assert!(!world.is_here(&image));

    // One after another: when the base image is back, the other was had in hand.
    let other = world.function(DOUBLE).await;
    let base =
        PushDone { base: "3.11-slim".to_owned(), image: image.clone(), ..PushDone::default() };
    world.publish("push.done", published(&other, &host)).await;
    world.publish("push.done", base.encode_to_vec()).await;
    eventually("a new base image is fetched", LONG, async || world.is_here(&image).then_some(()))
        .await;
    assert!(!world.is_here(&format!("{host}/{}@{}", other.repository, other.digest)));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_ahead_where_that_is_off() {
    let world = World::start().await;
    let host = primary().await.host;
    let function = world.function(DOUBLE).await;
    let worker = world.worker_with(|config| config.worker.warm_up.enabled = false).await;
    world.publish("push.done", published(&function, &host)).await;
    let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
    assert_eq!(task.cache.as_deref(), Some("MISS"));
    worker.stop().await;
}
