//! Tasks that run, and how they end.

use bytes::Bytes;
use mecapy_objects::Key;
use mecapy_proto::Event as _;
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::v1::{CacheOutcome, TaskCancel, TaskDispatch, TaskStatus};
use mecapy_store::{TaskState, tasks};
use mecapy_testkit::{Infra, Server, eventually};
use prost::Message as _;

use crate::containers::{container_exists, let_go};
use crate::world::{DOUBLE, LONG, WAIT, World, code, row};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_succeeds_leaves_its_result_in_every_place() {
    let world = World::start().await;
    let worker = world.worker().await;
    let function = world.function(DOUBLE).await;
    let dispatch = world.task(function.id, r#"{"n": 21}"#);
    let task = world.run(&dispatch).await;
    let id = task.id();

    assert_eq!(
        (task.state, task.attempt, task.exit_code),
        (TaskState::Succeeded, 1, Some(0)),
        "{task:?}"
    );
    assert_eq!(task.worker.as_deref(), Some(worker.name.as_str()));
    assert_eq!(task.digest, Some(function.digest.to_string()));
    assert_eq!(task.cache.as_deref(), Some("MISS"));
    assert!(task.failure().is_none() && task.ended_at.is_some());
    let result_key = task.result_key.unwrap();
    assert_eq!(result_key, format!("tasks/{id}/1/result.json"));
    assert_eq!(world.object(&result_key).await.unwrap(), r#"{"double": 42}"#);
    assert_eq!(world.object(&format!("tasks/{id}/1/stdout.log")).await.unwrap(), "said\n");
    assert_eq!(world.object(&format!("tasks/{id}/1/stderr.log")).await.unwrap(), "complained\n");
    let in_bucket = eventually("the result is in the bucket", LONG, async || {
        world.results.get(id).await.unwrap()
    });
    assert_eq!(in_bucket.await, r#"{"double": 42}"#);

    let done = world.done(id).await;
    assert_eq!(done.len(), 1);
    assert_eq!(
        (done[0].status(), done[0].cache(), done[0].attempt),
        (TaskStatus::Succeeded, CacheOutcome::Miss, 1)
    );
    assert_eq!((done[0].result_key.as_str(), done[0].exit_code), (result_key.as_str(), Some(0)));
    let timings = done[0].timings.unwrap();
    assert!(timings.start_ms > 0 && timings.run_ms > 0, "{timings:?}");

    let again = world
        .run(&TaskDispatch {
            docker_image: "v1".to_owned(),
            ..world.task(function.id, r#"{"n": 1}"#)
        })
        .await;
    assert_eq!((again.state, again.cache.as_deref()), (TaskState::Succeeded, Some("HIT")));
    world.until_nothing_waits().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_fail_is_told_apart() {
    let world = World::start().await;
    let worker = world.worker().await;
    // The inputs are the code: one image, run one way after another.
    let function = world.function("import json\nexec(json.load(open('/inputs.json')))\n").await;
    let run = async |code: &str, timeout_ms: u64| {
        let inputs = serde_json::to_string(code).unwrap();
        let dispatch = TaskDispatch { timeout_ms, ..world.task(function.id, &inputs) };
        world.run(&dispatch).await
    };

    let failed = run("1 / 0", 0).await;
    let failure = failed.failure().unwrap();
    assert_eq!((failed.state, failed.exit_code), (TaskState::Failed, Some(1)));
    assert_eq!(failure.code, "function-failed");
    assert!(failure.message.ends_with("ZeroDivisionError: division by zero"), "{failure:?}");
    assert!(failure.log[0].starts_with("Traceback"), "{failure:?}");
    let done = world.done(failed.id()).await;
    assert_eq!((done[0].status(), done[0].exit_code), (TaskStatus::Failed, Some(1)));
    assert!(
        done[0].result_key.is_empty() && world.results.get(failed.id()).await.unwrap().is_none()
    );

    let own_137 = run("raise SystemExit(137)", 0).await;
    assert_eq!((own_137.state, own_137.exit_code), (TaskState::Failed, Some(137)));
    let signal = run("import os; os.kill(os.getpid(), 11)", 0).await;
    assert_eq!((signal.state, signal.exit_code), (TaskState::Failed, Some(139)));
    assert!(signal.failure().unwrap().message.contains("SIGSEGV"));

    let late = run("import time; print('before', flush=True); time.sleep(600)", 8_000).await;
    assert_eq!(
        (late.state, code(&late).as_deref()),
        (TaskState::TimedOut, Some("task-timed-out")),
        "{late:?}"
    );
    assert_eq!(
        world.object(&format!("tasks/{}/1/stdout.log", late.id())).await.unwrap(),
        "before\n"
    );

    let greedy = run("held = bytearray(1 << 30)", 0).await;
    assert_eq!(
        (greedy.state, code(&greedy).as_deref()),
        (TaskState::Oom, Some("task-out-of-memory"))
    );

    for (source, expected) in [
        ("pass", "output-missing"),
        ("open('/output.json', 'w').write('{')", "output-invalid"),
        ("open('/output.json', 'w').write('NaN')", "output-invalid"),
        ("import os; os.symlink('/etc/passwd', '/tmp/output.json')", "output-invalid"),
        ("open('/output.json', 'w').write(' ' * (11 << 20))", "output-too-large"),
    ] {
        let task = run(source, 0).await;
        assert_eq!(
            (task.state, code(&task).as_deref()),
            (TaskState::Failed, Some(expected)),
            "{source}"
        );
        assert_eq!(task.result_key, None);
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_each_stream_a_mebibyte_is_kept_with_a_note_of_what_is_left_out() {
    let world = World::start().await;
    let worker = world.worker().await;
    let function = world
        .function(
            "import sys\nsys.stdout.write('begin' + 'x' * (3 << 20) + 'end')\nsys.stderr.write('y' * (1 << 20))\nopen('/output.json', 'w').write('1')\n",
        )
        .await;
    let task = world.run(&world.task(function.id, "{}")).await;
    assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
    let kept = async |stream: &str| {
        let key = Key::given(format!("tasks/{}/1/{stream}.log", task.id()));
        let text = world.objects.get(&key, 16 << 20).await.unwrap().unwrap();
        String::from_utf8(text.to_vec()).unwrap()
    };
    let stdout = kept("stdout").await;
    let note = format!("\n[... {} bytes left out ...]\n", (2 << 20) + 8);
    assert!(stdout.starts_with("begin") && stdout.ends_with("end") && stdout.contains(&note));
    assert_eq!(stdout.len(), (1 << 20) + note.len());
    assert_eq!(kept("stderr").await, "y".repeat(1 << 20), "what is not over its limit is whole");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_no_more_tasks_than_slots_and_finishes_what_it_has_when_it_is_told_to_end() {
    let world = World::start().await;
    let one = world.worker_with(|config| config.worker.slots = Some(1)).await;
    let function = world.function(WAIT).await;
    let first = world.send(&world.task(function.id, "{}")).await;
    world.until_it_runs(first).await;
    let second = world.send(&world.task(function.id, "{}")).await;
    eventually("the second waits in the queue and not in the worker", LONG, async || {
        let backlog = mecapy_bus::topology::backlog(&world.bus).await.unwrap();
        let tasks = backlog.iter().find(|(durable, ..)| *durable == mecapy_bus::topology::WORKER);
        tasks.is_some_and(|(_, waiting, out)| (*waiting, *out) == (1, 1)).then_some(())
    })
    .await;
    one.shutdown.cancel();
    assert!(world.look(second).await.is_none(), "it would have made the task's row");
    let task = world.let_end(first).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 1), "{task:?}");
    assert_eq!(task.worker.as_deref(), Some(one.name.as_str()));
    one.stop().await;
    assert!(world.look(second).await.is_none());

    let two = world.worker().await;
    world.until_it_runs(second).await;
    let task = world.let_end(second).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 1), "{task:?}");
    assert_eq!(task.worker.as_deref(), Some(two.name.as_str()));
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_come_from_s3_or_are_nothing() {
    let world = World::start().await;
    let worker = world.worker().await;
    let function =
        world.function("import shutil; shutil.copyfile('/inputs.json', '/output.json')").await;
    let result = async |dispatch: &TaskDispatch| {
        let task = world.run(dispatch).await;
        world.object(&task.result_key.unwrap()).await.unwrap()
    };

    let key = Key::given(format!("inputs/{}.json", mecapy_testkit::unique("by-key")));
    world.objects.put(&key, Bytes::from_static(b"[1, 2]")).await.unwrap();
    let by_key = Some(Inputs::InputsS3Key(key.to_string()));
    assert_eq!(
        result(&TaskDispatch { inputs: by_key, ..world.task(function.id, "") }).await,
        "[1, 2]"
    );
    assert_eq!(result(&TaskDispatch { inputs: None, ..world.task(function.id, "") }).await, "{}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_is_cancelled_at_a_word() {
    let world = World::start().await;
    let worker = world.worker().await;
    let function = world.function(WAIT).await;
    let id = world.send(&world.task(function.id, "{}")).await;
    world.until_it_runs(id).await;
    let mut conn = world.pool.acquire().await.unwrap();
    assert_eq!(tasks::cancel(&mut conn, id).await.unwrap(), Some(TaskState::Running));
    world.publish("task.cancel", TaskCancel { task_id: id.to_string() }.encode_to_vec()).await;

    let task = world.end(id).await;
    assert_eq!(
        (task.state, task.attempt, code(&task).as_deref()),
        (TaskState::Cancelled, 1, Some("task-cancelled"))
    );
    assert_eq!(world.done(id).await[0].status(), TaskStatus::Cancelled);
    world.until_nothing_waits().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_was_cancelled_in_the_queue_never_runs() {
    let world = World::start().await;
    let function = world.function(DOUBLE).await;
    let dispatch = world.task(function.id, r#"{"n": 1}"#);
    let id = dispatch.task_id.parse().unwrap();
    let mut conn = world.pool.acquire().await.unwrap();
    assert!(tasks::create(&mut conn, &row(id, &function)).await.unwrap());
    world.send(&dispatch).await;
    assert_eq!(tasks::cancel(&mut conn, id).await.unwrap(), Some(TaskState::Cancelled));
    let worker = world.worker().await;
    world.until_nothing_waits().await;
    let task = world.look(id).await.unwrap();
    assert_eq!((task.state, task.attempt, task.worker), (TaskState::Cancelled, 0, None));
    assert!(world.done_so_far(id).await.is_empty());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_away_for_a_while_cost_no_attempt() {
    let own = Infra::start(&[Server::Postgres, Server::S3]).await;
    let world = World::on(own.postgres().await, own.s3().await).await;
    let worker = world.worker().await;
    let function = world.function(WAIT).await;
    let id = world.send(&world.task(function.id, "{}")).await;
    world.until_it_runs(id).await;
    own.stop(Server::S3).await;
    own.stop(Server::Postgres).await;
    eventually("the function has ended meanwhile", LONG, async || {
        let_go(id);
        (!container_exists(id)).then_some(())
    })
    .await;
    // At once: the worker's patience has an end.
    tokio::join!(own.resume(Server::Postgres), own.resume(Server::S3));
    let task = eventually("the task has ended", LONG, async || {
        tasks::get(&world.pool, id).await.ok().flatten().filter(|task| task.state.is_final())
    })
    .await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 1));
    assert_eq!(world.done(id).await.len(), 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_task_is_a_dead_letter_and_the_queue_goes_on() {
    let world = World::start().await;
    let worker = world.worker().await;
    let function = world.function(DOUBLE).await;
    world.publish("task.dispatch", b"\xff\xff".to_vec()).await;
    let no_id = TaskDispatch { task_id: "seven".to_owned(), ..TaskDispatch::default() };
    world.publish("task.dispatch", no_id.encode_to_vec()).await;
    let unknown = mecapy_proto::FunctionId::new(999_999).unwrap();
    let lost = world.send(&world.task(unknown, "{}")).await;
    let by_hand = serde_json::to_vec(&world.task(function.id, r#"{"n": 2}"#)).unwrap();
    world.publish("task.dispatch", by_hand).await;
    world.until_nothing_waits().await;
    let letters = mecapy_bus::dead_letters::list(&world.bus, 0, 10).await.unwrap();
    assert_eq!(letters.len(), 3, "{letters:?}");
    assert!(letters.iter().any(|letter| letter.reason == "unknown function 999999"), "{letters:?}");
    assert!(letters.iter().all(|letter| letter.subject == TaskDispatch::SUBJECT));
    assert!(world.look(lost).await.is_none());
    assert_eq!(
        tasks::list(&world.pool, function.id, 10).await.unwrap()[0].state,
        TaskState::Succeeded
    );
    worker.stop().await;
}
