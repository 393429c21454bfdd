use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use mecapy_janitor::sweep::{Options, Part, run};
use mecapy_objects::Key;
use mecapy_proto::v1::TaskDispatch;
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::{BuildId, TaskId};
use mecapy_store::{builds, tasks};

use super::work::to_scanning;
use super::world::{World, fallback};

#[tokio::test]
async fn objects_past_their_retention_go_unless_their_build_or_task_is_in_use() {
    let world = World::start().await;
    let (open, _) = world.build(1).await;
    let (current, _) = world.build(2).await;
    to_scanning(&world, current, "sha256:x").await;
    let mut conn = world.pool.acquire().await.unwrap();
    builds::scanned(&mut conn, current, "sha256:x", true).await.unwrap();
    builds::published(&mut conn, current, "image").await.unwrap();
    let (gone, task) = (BuildId::new(), TaskId::new());
    let queued = TaskId::new();
    let new = mecapy_store::tasks::NewTask {
        id: queued,
        function: world.function,
        image: String::new(),
        inputs_s3_key: Some("x".into()),
        timeout_ms: 0,
        deadline: None,
        traceparent: None,
    };
    tasks::create(&mut conn, &new).await.unwrap();
    drop(conn);
    let kept = [
        Key::build_log(open),
        Key::build_log(current),
        Key::sbom(current),
        Key::task_inputs(queued),
        Key::given("logs/somebody's"),
        Key::cleanup_report("run", "report.json"),
    ];
    let goes = [
        Key::build_log(gone),
        Key::source(gone),
        Key::scan_report(gone),
        Key::lock(gone),
        Key::dockerfile(gone),
        Key::task_inputs(task),
        Key::task_result(task, 1),
    ];
    for key in kept.iter().chain(&goes) {
        world.objects.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    // Standing still is not what this is about.
    let options = Options { stalled_seconds: 1_000_000, ..World::options() };
    let sweeps = world.sweeps_with(fallback().await, options);
    let today = run(&sweeps, Part::Housekeeping, Utc::now()).await.unwrap().unwrap();
    assert_eq!(today.of("objects"), 0);
    let later = Utc::now() + TimeDelta::days(91);
    let report = run(&sweeps, Part::Housekeeping, later).await.unwrap().unwrap();
    assert_eq!(report.of("objects"), goes.len() as u64);
    for key in &goes {
        assert_eq!(world.objects.get(key, 10).await.unwrap(), None, "{key}");
    }
    for key in &kept {
        assert!(world.objects.get(key, 10).await.unwrap().is_some(), "{key}");
    }
}

#[tokio::test]
async fn producers_inputs_and_reports_go_after_their_own_time_or_never() {
    let world = World::start().await;
    let key = |name: &str| Key::given(format!("inputs/{name}"));
    let new = mecapy_store::tasks::NewTask {
        id: TaskId::new(),
        function: world.function,
        image: String::new(),
        inputs_s3_key: Some(key("of/a-queued-task.json").to_string()),
        timeout_ms: 0,
        deadline: None,
        traceparent: None,
    };
    let mut conn = world.pool.acquire().await.unwrap();
    tasks::create(&mut conn, &new).await.unwrap();
    drop(conn);
    // A producer's own task: it waits, and has no row.
    let waiting = TaskDispatch {
        task_id: TaskId::new().to_string(),
        function_id: world.function.get(),
        inputs: Some(Inputs::InputsS3Key(key("of-a-message").to_string())),
        ..TaskDispatch::default()
    };
    world.backbone.bus.publish(&waiting).await.unwrap();
    let (queued, named) = (key("of/a-queued-task.json"), key("of-a-message"));
    let unused = key("old/a");
    let reports =
        [Key::cleanup_report("run", "report.json"), Key::mirror_report("run", "report.txt")];
    for key in [&queued, &named, &unused].into_iter().chain(&reports) {
        world.objects.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    let sweep = async |input_days, report_days, after| {
        let options = Options {
            stalled_seconds: 1_000_000,
            producer_input_days: input_days,
            report_days,
            ..World::options()
        };
        let sweeps = world.sweeps_with(fallback().await, options);
        let later = Utc::now() + TimeDelta::days(after);
        run(&sweeps, Part::Housekeeping, later).await.unwrap().unwrap().of("objects")
    };
    let is_there = async |key: &Key| world.objects.get(key, 10).await.unwrap().is_some();
    assert_eq!(sweep(0, 0, 10_000).await, 0, "0 is for ever");
    assert_eq!(sweep(90, 400, 89).await, 0);
    assert_eq!(sweep(90, 400, 91).await, 1);
    assert!(!is_there(&unused).await);
    assert_eq!(sweep(0, 400, 401).await, 2);
    for key in &reports {
        assert!(!is_there(key).await, "{key}");
    }
    assert!(is_there(&queued).await && is_there(&named).await, "a task needs them");
}
