//! Tasks that run in containers that waited: their ends, their names, and that nothing is seen of what was not claimed.

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use mecapy_bus::Live;
use mecapy_proto::TaskId;
use mecapy_proto::v1::{TaskCancel, TaskDispatch};
use mecapy_store::{TaskState, tasks};
use mecapy_testkit::{EngineFront, eventually};
use prost::Message as _;

use crate::containers::docker;
use crate::parked::{run_parked, without_root};
use crate::world::{Function, LONG, Running, WAIT, World, code, row};

const SPEAKS_AND_WAITS: &str = r#"
print("said")
import json, os, time
while not os.path.exists("/tmp/go"):
    time.sleep(0.01)
json.dump("went", open("/output.json", "w"))
"#;

/// A task of `WAIT` that runs in a container that waited. The first may have to run in one of its own image: a task waits
/// two seconds for its code, and no longer where the registry is slow. Then the next has it at hand.
async fn waiting_in_parked(world: &World, worker: &Running, function: &Function) -> TaskId {
    let format = "{{index .Config.Labels \"org.mecapy.parked\"}}";
    eventually("a task runs in a container that waited", LONG, async || {
        world.until_one_waits(worker).await;
        let id = world.send(&world.task(function.id, "{}")).await;
        world.until_it_runs(id).await;
        let label = docker(&["inspect", "--format", format, &format!("mecapy-task-{id}")]);
        if label.starts_with("mecapy-park-") {
            return Some(id);
        }
        world.let_end(id).await;
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_fail_is_told_apart_in_a_parked_container_too() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let function = world
        .function(
            "import json\nassert '/app/user_function.py' in open('/proc/self/mounts').read()\nexec(json.load(open('/inputs.json')))\n",
        )
        .await;
    let run = async |code: &str, timeout_ms: u64| {
        let inputs = serde_json::to_string(code).unwrap();
        let dispatch = TaskDispatch { timeout_ms, ..world.task(function.id, &inputs) };
        run_parked(&world, &worker, &dispatch).await
    };
    // It fails where no container waited, as the first may, where the registry is slow to give its code.
    eventually("its code is at hand", LONG, async || {
        let task = run("open('/output.json', 'w').write('1')", 0).await;
        (task.state == TaskState::Succeeded).then_some(())
    })
    .await;
    for (source, state, exit_code, expected) in [
        ("1 / 0", TaskState::Failed, Some(1), "function-failed"),
        ("raise SystemExit(137)", TaskState::Failed, Some(137), "function-failed"),
        ("import os; os.kill(os.getpid(), 11)", TaskState::Failed, Some(139), "function-failed"),
        ("import os; os.kill(os.getpid(), 9)", TaskState::Failed, Some(137), "function-failed"),
        ("held = bytearray(1 << 30)", TaskState::Oom, None, "task-out-of-memory"),
        (
            "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
            TaskState::Oom,
            None,
            "task-out-of-memory",
        ),
        ("pass", TaskState::Failed, Some(0), "output-missing"),
        ("open('/output.json', 'w').write('{')", TaskState::Failed, Some(0), "output-invalid"),
        (
            "import os; os.symlink('/etc/passwd', '/tmp/output.json')",
            TaskState::Failed,
            Some(0),
            "output-invalid",
        ),
        ("import os; os.mkfifo('/tmp/output.json')", TaskState::Failed, Some(0), "output-invalid"),
        (
            "open('/output.json', 'w').write(' ' * (11 << 20))",
            TaskState::Failed,
            Some(0),
            "output-too-large",
        ),
    ] {
        let task = run(source, 0).await;
        assert_eq!(
            (task.state, task.exit_code, code(&task).as_deref()),
            (state, exit_code, Some(expected)),
            "{source}: {task:?}"
        );
    }
    let failed = run("1 / 0", 0).await.failure().unwrap();
    assert!(failed.message.ends_with("ZeroDivisionError: division by zero"), "{failed:?}");
    assert!(!failed.log.join("\n").contains("park"), "{failed:?}");

    // On a slow machine it may take more than the first limit to say something.
    let mut said = Bytes::new();
    for limit_ms in [3_000, 10_000, 60_000] {
        let late = run("import time; print('before', flush=True); time.sleep(600)", limit_ms).await;
        let end = (late.state, code(&late));
        assert_eq!(end, (TaskState::TimedOut, Some("task-timed-out".to_owned())));
        let kept = world.object(&format!("tasks/{}/1/stdout.log", late.id())).await;
        said = kept.unwrap_or_default();
        if !said.is_empty() {
            break;
        }
    }
    assert_eq!(said, "before\n");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_in_a_parked_container_has_its_name_and_is_cancelled_at_a_word() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let function = world.function(WAIT).await;
    let id = waiting_in_parked(&world, &worker, &function).await;
    // The function may begin before its task is taken.
    eventually("it is taken", LONG, async || {
        world.look(id).await.filter(|task| task.state == TaskState::Running)
    })
    .await;
    let mut conn = world.pool.acquire().await.unwrap();
    assert_eq!(tasks::cancel(&mut conn, id).await.unwrap(), Some(TaskState::Running));
    // By itself it would go on for longer than anything is waited for here.
    world.publish("task.cancel", TaskCancel { task_id: id.to_string() }.encode_to_vec()).await;
    let task = world.end(id).await;
    assert_eq!((task.state, task.attempt), (TaskState::Cancelled, 1));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_began_while_its_task_was_cancelled_leaves_no_trace() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let function = world.function(SPEAKS_AND_WAITS).await;
    let before = waiting_in_parked(&world, &worker, &function).await;
    assert_eq!(world.let_end(before).await.state, TaskState::Succeeded);
    world.until_one_waits(&worker).await;
    let dispatch = world.task(function.id, "{}");
    let id: TaskId = dispatch.task_id.parse().unwrap();
    let mut conn = world.pool.acquire().await.unwrap();
    assert!(tasks::create(&mut conn, &row(id, &function)).await.unwrap());
    let mut words = Box::pin(Live::new(world.bus.clone()).task_log(id).subscribe().await.unwrap());
    world.bus.flush().await;
    // The claim waits for it, and nothing before the claim does.
    let mut cancelling = world.pool.begin().await.unwrap();
    let lock = sqlx::query("select 1 from tasks where id = $1 for update").bind(id.uuid());
    lock.execute(&mut *cancelling).await.unwrap();
    world.send(&dispatch).await;
    world.until_it_runs(id).await;
    assert_eq!(world.look(id).await.unwrap().state, TaskState::Queued);
    assert_eq!(tasks::cancel(&mut cancelling, id).await.unwrap(), Some(TaskState::Cancelled));
    cancelling.commit().await.unwrap();
    world.until_nothing_waits().await;
    let task = world.end(id).await;
    assert_eq!((task.state, task.attempt, task.worker), (TaskState::Cancelled, 0, None));
    assert!(world.done_so_far(id).await.is_empty());
    assert_eq!(world.results.get(id).await.unwrap(), None);
    // What it said comes before its container's end.
    world.bus.flush().await;
    assert_eq!(words.next().now_or_never(), None, "an attempt that there never was has spoken");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_container_gets_its_tasks_name_although_the_engine_refused_it_at_first() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let front = EngineFront::refusing("/rename", 500, 2);
    let worker = world.worker_with_parked(|config| config.docker.host = Some(front.host())).await;
    let function = world.function(WAIT).await;
    let id = waiting_in_parked(&world, &worker, &function).await;
    assert_eq!(front.left(), 0);
    assert_eq!(world.let_end(id).await.state, TaskState::Succeeded);
    worker.stop().await;
}
