//! Tasks that are not run, and why.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use mecapy_objects::Key;
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::v1::{TaskDispatch, TaskStatus};
use mecapy_registry::Digest;
use mecapy_store::rematches::{self, Matched};
use mecapy_store::{TaskState, builds, functions, tasks};
use mecapy_testkit::eventually;

use crate::published::primary;
use crate::world::{DOUBLE, LONG, World, code, row};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_cannot_run_fails_with_the_reason_and_without_an_attempt() {
    let world = World::start().await;
    let worker = world.worker().await;
    let ready = world.function(DOUBLE).await;
    // So that no refused task leaves a pull behind that goes on after the test.
    assert_eq!(world.run(&world.task(ready.id, r#"{"n": 1}"#)).await.state, TaskState::Succeeded);
    let unscanned = world.function_at(DOUBLE, &primary().await, false).await;
    let (draft, _) = world.draft().await;
    let past = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 - 5;
    let task = |image: String| TaskDispatch { docker_image: image, ..world.task(ready.id, "{}") };
    let mut too_late = world.task(ready.id, "{}");
    too_late.deadline = Some(Default::default());
    too_late.deadline.as_mut().unwrap().seconds = past;
    let large = Key::given(format!("inputs/{}.json", mecapy_testkit::unique("large")));
    world.objects.put(&large, Bytes::from(vec![b' '; (10 << 20) + 1])).await.unwrap();
    let inputs = |key: &str| Some(Inputs::InputsS3Key(key.to_owned()));

    for (dispatch, expected) in [
        (world.task(unscanned.id, "{}"), "image-not-scanned"),
        (task(Digest::of(b"never built").to_string()), "image-not-scanned"),
        (
            task(format!("{}/{}@{}", primary().await.host, ready.repository, unscanned.digest)),
            "image-not-scanned",
        ),
        (task(format!("{}/{}", primary().await.host, unscanned.repository)), "image-not-found"),
        (task("v99".to_owned()), "image-not-found"),
        (world.task(draft, "{}"), "function-not-ready"),
        (too_late, "deadline-exceeded"),
        (world.task(ready.id, "{"), "invalid-inputs"),
        (
            TaskDispatch { inputs: inputs("tasks/none/inputs.json"), ..task(String::new()) },
            "invalid-inputs",
        ),
        (
            TaskDispatch { inputs: inputs(large.as_str()), ..task(String::new()) },
            "inputs-too-large",
        ),
    ] {
        let ended = world.run(&dispatch).await;
        assert_eq!(
            (ended.state, code(&ended).as_deref()),
            (TaskState::Failed, Some(expected)),
            "{dispatch:?}"
        );
        assert_eq!(
            (ended.attempt, ended.exit_code, ended.cache.as_deref()),
            (0, None, None),
            "{expected}"
        );
        let done = world.done(ended.id()).await;
        assert_eq!((done.len(), done[0].status()), (1, TaskStatus::Failed));
        assert_eq!(done[0].failure.as_ref().unwrap().code, expected);
    }
    world.until_nothing_waits().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_a_deleted_function_fails() {
    let world = World::start().await;
    let ready = world.function(DOUBLE).await;
    let dispatch = world.task(ready.id, r#"{"n": 1}"#);
    let mut conn = world.pool.acquire().await.unwrap();
    let id = dispatch.task_id.parse().unwrap();
    assert!(tasks::create(&mut conn, &row(id, &ready)).await.unwrap());
    functions::delete(&mut conn, ready.id).await.unwrap();
    let worker = world.worker().await;
    let ended = world.run(&dispatch).await;
    assert_eq!(
        (ended.state, code(&ended).as_deref()),
        (TaskState::Failed, Some("unknown-function"))
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_revoked_is_not_run_until_that_is_taken_back() {
    let world = World::start().await;
    let worker = world.worker().await;
    let function = world.function(DOUBLE).await;
    let dispatch = || world.task(function.id, r#"{"n": 1}"#);
    assert_eq!(world.run(&dispatch()).await.state, TaskState::Succeeded);
    let build = builds::newest(&world.pool, function.id).await.unwrap().unwrap().id();
    let matched = |revoked| Matched {
        database_version: format!("later, {revoked}"),
        critical: u32::from(revoked),
        high: 0,
        medium: 0,
        low: 0,
        unknown: 0,
        findings: Default::default(),
        revoked,
        refused: revoked,
    };
    let record = async |matched: Matched| {
        let mut conn = world.pool.acquire().await.unwrap();
        let changed = rematches::record(&mut conn, &[build.uuid()], &matched).await.unwrap();
        assert_eq!(changed.len(), 1);
    };
    record(matched(true)).await;
    // By whatever name it is asked for.
    let by_digest = TaskDispatch { docker_image: function.digest.to_string(), ..dispatch() };
    let by_tag = TaskDispatch { docker_image: "v1".to_owned(), ..dispatch() };
    for dispatch in [dispatch(), by_digest, by_tag] {
        let ended = world.run(&dispatch).await;
        assert_eq!(
            (ended.state, code(&ended).as_deref(), ended.attempt),
            (TaskState::Failed, Some("image-revoked"), 0),
            "{dispatch:?}"
        );
        let done = world.done(ended.id()).await;
        assert_eq!((done.len(), done[0].status()), (1, TaskStatus::Failed));
        assert_eq!(done[0].failure.as_ref().unwrap().code, "image-revoked");
    }
    record(matched(false)).await;
    assert_eq!(world.run(&dispatch()).await.state, TaskState::Succeeded);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_runtime_the_engine_does_not_have_takes_no_tasks() {
    let world = World::start().await;
    let runtime = |name: &str| {
        let name = name.to_owned();
        world.worker_that_starts(|config| config.worker.runtime = Some(name))
    };
    let (worker, health) = runtime("no-such-runtime");
    let said = eventually("it says what is missing", LONG, async || {
        health.missing().get("docker").filter(|said| said.contains("worker.runtime")).cloned()
    })
    .await;
    assert!(said.contains("`no-such-runtime`") && said.contains("runc"), "{said}");
    worker.stop().await;

    let (worker, health) = runtime("runc");
    eventually("it is ready", LONG, async || health.missing().is_empty().then_some(())).await;
    let function = world.function(DOUBLE).await;
    let task = world.run(&world.task(function.id, r#"{"n": 1}"#)).await;
    assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
    worker.stop().await;
}
