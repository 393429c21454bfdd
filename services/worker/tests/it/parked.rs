//! Containers that wait for a task: what a function sees in one, and what it can't do there either.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use bytes::Bytes;
use mecapy_proto::TaskId;
use mecapy_proto::v1::{TaskCancel, TaskDispatch};
use mecapy_registry::ConfigPatch;
use mecapy_store::{TaskState, tasks};
use mecapy_testkit::{EngineFront, eventually};
use prost::Message as _;
use serde_json::Value;

use crate::containers::{docker, may_park, parked_of};
use crate::published::primary;
use crate::world::{Function, LONG, Running, WAIT, World, code, row};

/// Whether it runs in a container that waited: only there, its code is a mounted file.
pub const IS_PARKED: &str = r#"
import json
mounts = open("/proc/self/mounts").read()
json.dump("/app/user_function.py" in mounts, open("/output.json", "w"))
"#;

/// Leaves to the interpreter's end what it may: exit handlers, objects of its own and in cycles; where it is told to,
/// an open file, and an object in a module.
const LEAVES_THINGS: &str = r#"
import atexit, decimal, json, weakref
inputs = json.load(open("/inputs.json"))
class Last:
    def __init__(self, name):
        self.name, self.say = name, print
    def __del__(self):
        self.say(self.name, "goes")
alone = Last("alone")
one, other = Last("one of a cycle"), Last("its other")
one.other, other.one = other, one
atexit.register(lambda: print("exit handler", decimal.Decimal(1) / 2))
weakref.finalize(alone.__class__, print, "finalizer")
if inputs["in_module"]:
    decimal.left_by_the_function = Last("what is in a module")
output = open("/output.json", "w")
json.dump(["x" * 70000], output)
if not inputs["open"]:
    output.close()
"#;

/// All that a function can see of where it is, on stdout.
const LOOK_AROUND: &str = r#"
import json, os, sys, hashlib, inspect, signal, socket, stat, locale

def loopback():
    with socket.create_server(("localhost", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=10):
            return [socket.gethostbyname("localhost"), server.accept()[1][0]]

def elsewhere():
    found = []
    for name in ("pypi.org", "192.0.2.1"):
        try:
            socket.create_connection((name, 443), timeout=10)
        except OSError as error:
            found.append([type(error).__name__, error.errno])
    return found

def tree(root):
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in SKIPPED]
        for name in folders + files:
            path = os.path.join(folder, name)
            found = os.lstat(path)
            is_file = stat.S_ISREG(found.st_mode)
            content = None
            if is_file and path not in OF_EACH_CONTAINER:
                content = [found.st_size, int(found.st_mtime)]
            if folder == "/app":
                content.append(open(path).read())
            yield [path, oct(found.st_mode), found.st_uid, found.st_gid, content]

def by_folder():
    found = {}
    for entry in sorted(tree("/")):
        found.setdefault("/".join(entry[0].split("/")[:3]), hashlib.sha256()).update(repr(entry).encode())
    return {folder: digest.hexdigest() for folder, digest in found.items()}

OF_EACH_CONTAINER = ("/.dockerenv", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
SKIPPED = ("/proc", "/sys", "/dev", "/tmp")
mask = os.umask(0)
os.umask(mask)
print(json.dumps({
    "tree": by_folder(),
    "app": [entry for entry in tree("/app")],
    "argv": [sys.argv, sys.orig_argv, open("/proc/self/cmdline").read()],
    "main": [__name__, __file__, __doc__, sorted(globals())],
    "path": [os.getcwd(), sys.path, sys.executable, sys.prefix, str(sys.flags)],
    "environment": {k: v for k, v in os.environ.items() if k != "HOSTNAME"},
    "modules": sorted(sys.modules),
    "source": inspect.getsource(sys.modules["__main__"])[:40],
    "frames": len(inspect.stack()),
    "who": [os.getuid(), os.getgid(), os.getgroups(), mask],
    "files": sorted(os.listdir("/proc/self/fd")),
    "stdin": sys.stdin.read(),
    "loopback": [loopback(), elsewhere(), sorted(name for _, name in socket.if_nameindex())],
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "locale": locale.setlocale(locale.LC_ALL),
    "threads": len(os.listdir("/proc/self/task")),
    "writable": [os.access(path, os.W_OK) for path in ("/", "/app", "/app/user_function.py")],
    "capabilities": [l for l in open("/proc/self/status") if l.startswith(("Cap", "NoNew", "Secc"))],
}, indent=1))
open("/output.json", "w").write("1")
"#;

pub fn without_root() -> bool {
    if !may_park() {
        eprintln!("not tested: containers can be parked by root only");
    }
    !may_park()
}

/// Runs it once more, where a container waits.
pub async fn run_parked(world: &World, worker: &Running, dispatch: &TaskDispatch) -> tasks::Task {
    world.until_one_waits(worker).await;
    world.run(dispatch).await
}

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

pub async fn result(world: &World, task: &tasks::Task) -> String {
    let key = task.result_key.as_ref().unwrap_or_else(|| panic!("{task:?}"));
    String::from_utf8(world.object(key).await.unwrap().to_vec()).unwrap()
}

async fn stdout(world: &World, task: &tasks::Task) -> Value {
    let text = world.object(&format!("tasks/{}/1/stdout.log", task.id())).await.unwrap();
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{error}: {text:?} {task:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_never_seen_runs_where_its_dependencies_wait_and_each_container_once() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let before = parked_of(&worker.name);
    // Where the registry takes more than two seconds for its code it is not waited for; then it is another's turn.
    let (one, first) = eventually("one runs where its dependencies wait", LONG, async || {
        let one = world.function(IS_PARKED).await;
        let first = run_parked(&world, &worker, &world.task(one.id, "{}")).await;
        assert_eq!(first.state, TaskState::Succeeded);
        (first.cache.as_deref() == Some("HIT")).then_some((one, first))
    })
    .await;
    assert_eq!(first.digest, Some(one.digest.to_string()));
    assert_eq!(result(&world, &first).await, "true");
    let host = primary().await.host;
    assert!(
        !world.is_here(&format!("{host}/{}@{}", one.repository, one.digest)),
        "its image was pulled although only its code was needed"
    );

    // Another's file in /tmp would be seen by who came after.
    let trace = world
        .function(
            "import os, json\njson.dump(os.listdir('/tmp'), open('/output.json', 'w'))\nopen('/tmp/trace', 'w')\n",
        )
        .await;
    for _ in 0..3 {
        let task = run_parked(&world, &worker, &world.task(trace.id, "{}")).await;
        assert!(!result(&world, &task).await.contains("trace"));
    }
    eventually("used containers are gone", LONG, async || {
        let now = parked_of(&worker.name);
        before.lines().all(|id| !now.contains(id)).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_sees_the_same_in_a_parked_container_in_its_own_and_with_docker_run() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let function = world.function(LOOK_AROUND).await;
    let plain = world.worker_with(|config| config.worker.pool.enabled = false).await;
    let task = world.run(&world.task(function.id, "{}")).await;
    let in_its_own = stdout(&world, &task).await;
    plain.stop().await;

    let worker = world.worker_with_parked(|_| ()).await;
    let parked =
        stdout(&world, &run_parked(&world, &worker, &world.task(function.id, "{}")).await).await;
    // Now with its imports done ahead: after as many tasks of its own as are compared.
    for _ in 0..9 {
        run_parked(&world, &worker, &world.task(function.id, "{}")).await;
    }
    let ahead =
        stdout(&world, &run_parked(&world, &worker, &world.task(function.id, "{}")).await).await;

    let host = primary().await.host;
    let image = format!("{host}/{}@{}", function.repository, function.digest);
    let run = Command::new("docker")
        .args(["run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp:mode=1777"])
        .args(["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--init", &image])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let docker_run: Value = serde_json::from_slice(&run.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&run.stderr)));
    for (name, seen) in
        [("parked", &parked), ("imports ahead", &ahead), ("docker run", &docker_run)]
    {
        let in_its_own = in_its_own.as_object().unwrap();
        let differing: Vec<_> = in_its_own
            .iter()
            .filter(|(key, expected)| seen[key] != **expected && *key != "tree")
            .map(|(key, expected)| format!("{key}: {expected} but {name}: {}", seen[key]))
            .collect();
        assert!(differing.is_empty(), "{differing:#?}");
        let tree = in_its_own["tree"].as_object().unwrap();
        let differing: Vec<_> =
            tree.iter().filter(|(path, hash)| seen["tree"][path] != **hash).collect();
        assert!(differing.is_empty(), "{name}: {differing:?}");
        assert_eq!(seen["tree"].as_object().unwrap().len(), tree.len(), "{name}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_runner_cannot_wait_runs_in_containers_of_its_own() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    // As of a base image from before containers waited.
    let labels = [("org.mecapy.parks".to_owned(), "1".to_owned())].into();
    let patch = ConfigPatch { labels, ..ConfigPatch::default() };
    let older = world.function_as(IS_PARKED, &primary().await, true, patch).await;
    for cache in ["MISS", "HIT"] {
        let task = run_parked(&world, &worker, &world.task(older.id, "{}")).await;
        assert_eq!((task.state, task.cache.as_deref()), (TaskState::Succeeded, Some(cache)));
        assert_eq!(result(&world, &task).await, "false");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_leaves_to_its_interpreters_end_is_done() {
    if without_root() {
        return;
    }
    let world = World::start().await;
    let function = world.function(LEAVES_THINGS).await;
    let task = |open: bool, in_module: bool| {
        let inputs = serde_json::json!({"open": open, "in_module": in_module});
        world.task(function.id, &inputs.to_string())
    };
    let whole = format!("[\"{}\"]", "x".repeat(70_000));
    // What it said, in any order.
    let said = async |task: tasks::Task| {
        assert_eq!(result(&world, &task).await, whole);
        let text = world.object(&format!("tasks/{}/1/stdout.log", task.id())).await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let plain = world.worker_with(|config| config.worker.pool.enabled = false).await;
    let in_its_own = [
        said(world.run(&task(true, true)).await).await,
        said(world.run(&task(false, false)).await).await,
    ];
    assert_eq!(in_its_own.each_ref().map(BTreeSet::len), [6, 5], "{in_its_own:?}");
    plain.stop().await;

    let worker = world.worker_with_parked(|_| ()).await;
    // Its imports are done ahead after some tasks of its own. Then nobody takes those modules apart any more.
    let mut ahead = false;
    for _ in 0..20 {
        let said = said(run_parked(&world, &worker, &task(false, true)).await).await;
        ahead = !said.contains("what is in a module goes");
        if ahead {
            break;
        }
    }
    assert!(ahead, "nothing was imported ahead");
    let parked = [
        said(run_parked(&world, &worker, &task(true, true)).await).await,
        said(run_parked(&world, &worker, &task(false, false)).await).await,
    ];
    assert_eq!(parked, in_its_own);
    worker.stop().await;
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
    let function = world.function(WAIT).await;
    let before = waiting_in_parked(&world, &worker, &function).await;
    assert_eq!(world.let_end(before).await.state, TaskState::Succeeded);
    world.until_one_waits(&worker).await;
    let dispatch = world.task(function.id, "{}");
    let id: TaskId = dispatch.task_id.parse().unwrap();
    let mut conn = world.pool.acquire().await.unwrap();
    assert!(tasks::create(&mut conn, &row(id, &function)).await.unwrap());
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

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_asks_for_it_finds_nothing_imported() {
    const SEES: &str = r#"
import json
# mecapy: no-early-imports
import sys
json.dump(["decimal" in sys.modules, "/app/user_function.py" in open("/proc/self/mounts").read()], open("/output.json", "w"))
"#;
    if without_root() {
        return;
    }
    let world = World::start().await;
    let worker =
        world.worker_with_parked(|config| config.worker.pool.max_per_dependencies = 1).await;
    let early = world
        .function(
            "import decimal, json\nmounts = open('/proc/self/mounts').read()\n\
             json.dump('/app/user_function.py' in mounts, open('/output.json', 'w'))\n",
        )
        .await;
    // Until the imports of those that asked last are these. Then the one that waits is used, which may be older where the
    // machine is slow: the next one is made for them.
    for _ in 0..8 {
        run_parked(&world, &worker, &world.task(early.id, "{}")).await;
    }
    eventually("the one that waits is used", LONG, async || {
        let task = run_parked(&world, &worker, &world.task(early.id, "{}")).await;
        (result(&world, &task).await == "true").then_some(())
    })
    .await;
    let late = world.function(SEES).await;
    let first = run_parked(&world, &worker, &world.task(late.id, "{}")).await;
    assert_eq!(result(&world, &first).await, "[false, false]", "what waited had imported");
    // Those that have imported are used up, or go with time; then one waits that has not.
    eventually("one waits that has imported nothing", LONG, async || {
        run_parked(&world, &worker, &world.task(early.id, "{}")).await;
        let task = run_parked(&world, &worker, &world.task(late.id, "{}")).await;
        (result(&world, &task).await == "[false, true]").then_some(())
    })
    .await;
    worker.stop().await;
}
