use chrono::Utc;
use mecapy_bus::{dead_letters, topology, waiting};
use mecapy_janitor::sweep::{Options, Part, run};
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::v1::{
    BaseBuild, BuildDone, BuildRequested, MirrorImage, ScanDone, TaskDispatch, TaskDone, Verdict,
};
use mecapy_proto::{BuildId, TaskId};
use mecapy_store::builds::Built;
use mecapy_store::scans::NewScan;
use mecapy_store::tasks::NewTask;
use mecapy_store::{BuildState, TaskState, builds, scans, stalled, tasks};
use mecapy_testkit::eventually;

use super::world::{Act, PATIENCE, World, fallback, next};

#[tokio::test]
async fn a_build_whose_request_was_lost_is_asked_for_again_with_its_code() {
    let world = World::start().await;
    let (build, request) = world.build(1).await;
    let mut conn = world.pool.acquire().await.unwrap();
    stalled::keep_request(&mut conn, build, &request).await.unwrap();
    drop(conn);
    let mut asked = world.consume::<BuildRequested>(topology::BUILDER, Act::Accept);
    assert_eq!(world.patient_sweep().await.of("builds_resent"), 1);
    assert_eq!(next(&mut asked).await, request);
    // It has its time before it is asked for once more.
    assert_eq!(world.patient_sweep().await.of("builds_resent"), 0);
}

#[tokio::test]
async fn what_is_sent_again_is_of_the_trace_in_which_it_was_asked_for() {
    let world = World::start().await;
    let trace = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    let (build, request) = world.build(1).await;
    let mut conn = world.pool.acquire().await.unwrap();
    stalled::keep_request(&mut conn, build, &request).await.unwrap();
    builds::keep_trace(&mut conn, build, trace.as_deref()).await.unwrap();
    let task = NewTask {
        id: TaskId::new(),
        function: world.function,
        image: String::new(),
        inputs_s3_key: Some("inputs/x.json".to_owned()),
        timeout_ms: 0,
        deadline: None,
        traceparent: trace.clone(),
    };
    tasks::create(&mut conn, &task).await.unwrap();
    drop(conn);
    world
        .execute(&format!(
            "update tasks set created_at = now() - interval '1 hour' where id = '{}'",
            task.id
        ))
        .await;
    let mut asked = world.consume_traces::<BuildRequested>(topology::BUILDER);
    let mut dispatched = world.consume_traces::<TaskDispatch>(topology::WORKER);
    let report = world.sweep().await;
    assert_eq!((report.of("builds_resent"), report.of("tasks_resent")), (1, 1));
    assert_eq!(next(&mut asked).await, trace);
    assert_eq!(next(&mut dispatched).await, trace);
}

#[tokio::test]
async fn each_state_is_sent_on_by_its_own_event() {
    let world = World::start().await;
    let mut built = world.consume::<BuildDone>(topology::SCANNER, Act::Accept);
    let mut scanned = world.consume::<ScanDone>(topology::PUBLISHER, Act::Accept);
    let mut bases = world.consume::<BaseBuild>(topology::BASE_BUILDER, Act::Accept);
    let digest = format!("sha256:{}", "a".repeat(64));
    let (scanning, _) = world.build(1).await;
    let (publishing, _) = world.build(2).await;
    for build in [scanning, publishing] {
        to_scanning(&world, build, &digest).await;
    }
    let mut conn = world.pool.acquire().await.unwrap();
    builds::scanned(&mut conn, publishing, &digest, true).await.unwrap();
    scans::insert(&mut conn, publishing, &scan(&digest)).await.unwrap();
    drop(conn);
    world.execute("insert into base_runs (id, reason) values ('run', 'manual')").await;
    let base = BuildId::new();
    world
        .execute(&format!(
            "insert into builds (id, base, base_run) values ('{base}', '3.11-slim', 'run')"
        ))
        .await;
    for build in [scanning, publishing, base] {
        world.age(build, "1 hour").await;
    }

    assert_eq!(world.sweep().await.of("builds_resent"), 3);
    let done = next(&mut built).await;
    assert_eq!(done.build_id, scanning.to_string());
    assert_eq!((done.owner.as_str(), done.version), (world.owner.as_str(), 1));
    assert_eq!((done.digest.as_str(), done.tag.as_str()), (digest.as_str(), "v1-00000000"));
    let done = next(&mut scanned).await;
    assert_eq!(done.build_id, publishing.to_string());
    assert_eq!(done.verdict, i32::from(Verdict::Passed));
    assert_eq!(done.counts.unwrap().high, 2);
    let asked = next(&mut bases).await;
    assert_eq!((asked.python_version.as_str(), asked.variant.as_str()), ("3.11", "slim"));
    assert_eq!((asked.build_id, asked.run_id.as_str()), (base.to_string(), "run"));
}

#[tokio::test]
async fn a_build_that_waits_in_a_long_queue_is_left_alone() {
    let world = World::start().await;
    let (build, request) = world.build(1).await;
    let mut conn = world.pool.acquire().await.unwrap();
    stalled::keep_request(&mut conn, build, &request).await.unwrap();
    drop(conn);
    world.backbone.bus.publish(&request).await.unwrap();
    world.execute("update builds set updated_at = now()").await;
    // No builder runs. It does stand still.
    let stalled_after = std::time::Duration::from_secs(1);
    eventually("the build stands still", PATIENCE, async || {
        let stalled = stalled::builds(&world.pool, stalled_after, 10).await.unwrap();
        (!stalled.is_empty()).then_some(())
    })
    .await;
    assert_eq!(world.sweep().await.of("builds_resent"), 0);
}

#[tokio::test]
async fn a_build_that_gets_nowhere_is_ended_with_a_code() {
    let world = World::start().await;
    let (build, request) = world.build(1).await;
    let mut conn = world.pool.acquire().await.unwrap();
    stalled::keep_request(&mut conn, build, &request).await.unwrap();
    drop(conn);
    let mut asked = world.consume::<BuildRequested>(topology::BUILDER, Act::Refuse);
    let sweeps =
        world.sweeps_with(fallback().await, Options { max_resends: 2, ..World::options() });
    for letters in 1..=2 {
        let report = run(&sweeps, Part::Work, Utc::now()).await.unwrap().unwrap();
        assert_eq!(report.of("builds_resent"), 1);
        next(&mut asked).await;
        eventually("it is a dead letter", PATIENCE, async || {
            (dead_letters::count(&world.backbone.bus).await.unwrap() == letters).then_some(())
        })
        .await;
        eventually("queue and outbox have done with it", PATIENCE, async || {
            let oldest = waiting::oldest(&world.backbone.bus, topology::BUILDER).await.unwrap();
            (oldest.is_none() && world.count("outbox").await == 0).then_some(())
        })
        .await;
        world.age(build, "1 hour").await;
    }
    eventually("it is ended", PATIENCE, async || {
        let report = run(&sweeps, Part::Work, Utc::now()).await.unwrap().unwrap();
        (report.of("builds_failed") == 1).then_some(())
    })
    .await;
    let ended = builds::get(&world.pool, build).await.unwrap().unwrap();
    assert_eq!(ended.state, BuildState::Failed);
    assert_eq!(ended.failure().unwrap().code, "build-lost");
    assert!(asked.try_recv().is_err(), "not asked for a third time");
}

#[tokio::test]
async fn a_producers_request_is_found_in_its_stream_and_one_that_is_nowhere_ends_the_build() {
    let world = World::start().await;
    let (found, request) = world.build(1).await;
    let (lost, _) = world.build(2).await;
    // Its first message was a dead letter.
    let mut refused = world.consume::<BuildRequested>(topology::BUILDER, Act::Refuse);
    for other in 0..20 {
        let other = BuildRequested { build_id: other.to_string(), ..request.clone() };
        world.backbone.bus.publish(&other).await.unwrap();
    }
    world.backbone.bus.publish(&request).await.unwrap();
    eventually("all are dead letters", PATIENCE, async || {
        (dead_letters::count(&world.backbone.bus).await.unwrap() == 21).then_some(())
    })
    .await;
    while refused.try_recv().is_ok() {}

    eventually("both are seen to", PATIENCE, async || {
        let report = world.sweep().await;
        (report.of("builds_resent") == 1 && report.of("builds_failed") == 1).then_some(())
    })
    .await;
    assert_eq!(next(&mut refused).await.build_id, found.to_string());
    let ended = builds::get(&world.pool, lost).await.unwrap().unwrap();
    assert_eq!(ended.failure().unwrap().code, "source-missing");
}

#[tokio::test]
async fn a_task_whose_worker_and_message_are_gone_is_dispatched_again_and_at_last_lost() {
    let world = World::start().await;
    let mut dispatched = world.consume::<TaskDispatch>(topology::WORKER, Act::Accept);
    let inline = TaskDispatch {
        inputs: Some(Inputs::InputsJson("{\"n\":1}".into())),
        ..task(&world, None).await
    };
    let id: TaskId = inline.task_id.parse().unwrap();
    let mut conn = world.pool.acquire().await.unwrap();
    stalled::keep_dispatch(&mut conn, id, &inline).await.unwrap();
    drop(conn);
    let stored = task(&world, Some("tasks/x/inputs.json")).await;
    let running = task(&world, Some("tasks/y/inputs.json")).await;
    let young = task(&world, Some("tasks/z/inputs.json")).await;
    for (task, started) in [(&running, "20 minutes"), (&young, "2 minutes")] {
        let id: TaskId = task.task_id.parse().unwrap();
        tasks::claim(&world.pool, id, "dead").await.unwrap().unwrap();
        let set = format!("started_at = now() - interval '{started}'");
        world.execute(&format!("update tasks set {set} where id = '{id}'")).await;
    }

    assert_eq!(world.sweep().await.of("tasks_resent"), 3, "one may run for three minutes yet");
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(next(&mut dispatched).await);
    }
    for expected in [&inline, &stored, &running] {
        assert!(seen.contains(expected), "{expected:?} of {seen:?}");
    }

    world
        .execute(&format!(
            "update tasks set resent = 3, resent_at = now() - interval '10 minutes' where id = '{id}'"
        ))
        .await;
    eventually("it is lost", PATIENCE, async || {
        (world.sweep().await.of("tasks_lost") == 1).then_some(())
    })
    .await;
    let lost = tasks::get(&world.pool, id).await.unwrap().unwrap();
    assert_eq!((lost.state, lost.failure().unwrap().code.as_str()), (TaskState::Lost, "task-lost"));
    // What could not be sent at once, the outbox sends.
    eventually("whoever waits is told", PATIENCE, async || {
        let done: Option<TaskDone> = waiting::find(
            &world.backbone.bus,
            topology::PIPELINE,
            &format!("{id}/0"),
            Utc::now() - chrono::TimeDelta::hours(1),
            Utc::now() + chrono::TimeDelta::hours(1),
        )
        .await
        .unwrap();
        done
    })
    .await;
}

#[tokio::test]
async fn one_replica_sweeps_at_a_time_and_housekeeping_is_no_reason_to_wait() {
    let world = World::start().await;
    let sweeps = world.sweeps(fallback().await);
    for (part, other_part) in [(Part::Work, Part::Housekeeping), (Part::Housekeeping, Part::Work)] {
        let mut other = world.pool.begin().await.unwrap();
        assert!(stalled::try_lock(&mut other, part).await.unwrap());
        assert_eq!(run(&sweeps, part, Utc::now()).await.unwrap(), None);
        assert!(run(&sweeps, other_part, Utc::now()).await.unwrap().is_some());
        drop(other);
        eventually("the lock is free", PATIENCE, async || {
            run(&sweeps, part, Utc::now()).await.unwrap()
        })
        .await;
    }
}

#[tokio::test]
async fn a_message_that_was_sent_late_because_nats_was_away_is_not_sent_again() {
    let world = World::start().await;
    let waiting = task(&world, Some("tasks/x/inputs.json")).await;
    let lost = task(&world, Some("tasks/y/inputs.json")).await;
    // The tasks are an hour old; the outbox could send the one only now. No worker runs.
    world.backbone.bus.publish(&waiting).await.unwrap();
    let options = Options { stalled_seconds: 600, ..World::options() };
    let sweeps = world.sweeps_with(fallback().await, options.clone());
    let report = run(&sweeps, Part::Work, Utc::now()).await.unwrap().unwrap();
    assert_eq!(report.of("tasks_resent"), 0, "it may be either's message");

    // Once the queue is empty, what has not begun is lost.
    let mut dispatched = world.consume::<TaskDispatch>(topology::WORKER, Act::Accept);
    assert_eq!(next(&mut dispatched).await, waiting);
    let id: TaskId = waiting.task_id.parse().unwrap();
    tasks::claim(&world.pool, id, "worker").await.unwrap().unwrap();
    eventually("the other is sent again", PATIENCE, async || {
        let report = run(&sweeps, Part::Work, Utc::now()).await.unwrap().unwrap();
        (report.of("tasks_resent") == 1).then_some(())
    })
    .await;
    assert_eq!(next(&mut dispatched).await, lost);
}

/// A queued task of an hour ago, without a message.
async fn task(world: &World, inputs: Option<&str>) -> TaskDispatch {
    let id = TaskId::new();
    let new = NewTask {
        id,
        function: world.function,
        image: "image".into(),
        inputs_s3_key: inputs.map(str::to_owned),
        timeout_ms: 0,
        deadline: None,
        traceparent: None,
    };
    let mut conn = world.pool.acquire().await.unwrap();
    tasks::create(&mut conn, &new).await.unwrap();
    drop(conn);
    world
        .execute(&format!(
            "update tasks set created_at = now() - interval '1 hour' where id = '{id}'"
        ))
        .await;
    TaskDispatch {
        task_id: id.to_string(),
        function_id: world.function.get(),
        docker_image: "image".into(),
        inputs: inputs.map(|key| Inputs::InputsS3Key(key.to_owned())),
        ..TaskDispatch::default()
    }
}

pub async fn to_scanning(world: &World, build: BuildId, digest: &str) {
    builds::start(&world.pool, build).await.unwrap();
    let repository = format!("mecapy/staging/user-{}-func-{}", world.owner, world.function);
    let built = Built {
        staging_image: format!("registry/{repository}@{digest}"),
        digest: digest.to_owned(),
        tag: "v1-00000000".into(),
        size_bytes: 5,
        dependency_image: String::new(),
        lock_key: None,
        log_key: "log".into(),
        duration_ms: 7,
    };
    let mut conn = world.pool.acquire().await.unwrap();
    assert!(builds::built(&mut conn, build, &built).await.unwrap());
}

fn scan(digest: &str) -> NewScan {
    NewScan {
        digest: digest.to_owned(),
        engine: "osv".into(),
        engine_version: "1".into(),
        database_version: "1".into(),
        database_partial: false,
        passed: true,
        critical: 0,
        high: 2,
        medium: 0,
        low: 0,
        unknown: 0,
        findings: serde_json::json!([]),
        report_key: "report".into(),
        sbom_key: "sbom".into(),
        duration_ms: 3,
    }
}

#[tokio::test]
async fn a_run_whose_messages_are_lost_is_sent_on_or_ended() {
    let world = World::start().await;
    let mut asked = world.consume::<MirrorImage>(topology::MIRROR_IMAGE, Act::Accept);
    for sql in [
        "insert into mirror_runs (id, reason, by_usage, dry_run, verify_percent, open_images, requested_at)
         values ('mirror', 'manual', true, false, 0, 1, now() - interval '1 hour')",
        "insert into mirror_images (run_id, repository, digest, tags)
         values ('mirror', 'mecapy/functions/f', 'sha256:aa', '{v1}')",
        "insert into cleanup_runs (id, kind, dry_run, confirmed, reason, target, fence, requested_at)
         values ('cleanup', 'cleanup', false, false, '', '', 1, now() - interval '1 hour')",
    ] {
        world.execute(sql).await;
    }
    let swept = world.patient_sweep().await;
    assert_eq!((swept.of("mirror_images_resent"), swept.of("cleanups_failed")), (1, 1));
    let event = next(&mut asked).await;
    assert_eq!((event.run_id.as_str(), event.tags.as_slice()), ("mirror", &["v1".to_owned()][..]));
    let failed = "cleanup_runs where state = 'failed' and problem <> ''";
    assert_eq!(world.count(failed).await, 1);
    // It has its time before it is sent once more.
    let swept = world.patient_sweep().await;
    assert_eq!((swept.of("mirror_images_resent"), swept.of("cleanups_failed")), (0, 0));
}
