use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use mecapy_janitor::sweep::{Options, run};
use mecapy_objects::Key;
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
    };
    tasks::create(&mut conn, &new).await.unwrap();
    drop(conn);
    let kept = [
        Key::build_log(open),
        Key::build_log(current),
        Key::sbom(current),
        Key::task_inputs(queued),
        Key::given("logs/somebody's"),
        Key::given("inputs/a-producers"),
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
    let today = run(&sweeps, Utc::now()).await.unwrap().unwrap();
    assert_eq!(today.of("objects"), 0);
    let later = Utc::now() + TimeDelta::days(91);
    let report = run(&sweeps, later).await.unwrap().unwrap();
    assert_eq!(report.of("objects"), goes.len() as u64);
    for key in &goes {
        assert_eq!(world.objects.get(key, 10).await.unwrap(), None, "{key}");
    }
    for key in &kept {
        assert!(world.objects.get(key, 10).await.unwrap().is_some(), "{key}");
    }
}
