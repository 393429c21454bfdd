//! Containers that wait for a task: what a function sees in one is what it sees anywhere.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use mecapy_proto::v1::TaskDispatch;
use mecapy_registry::ConfigPatch;
use mecapy_store::{TaskState, tasks};
use mecapy_testkit::eventually;
use serde_json::Value;

use crate::containers::{may_park, parked_of};
use crate::published::primary;
use crate::world::{LONG, Running, World};

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

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_the_runner_runs_with_the_workers_own_and_where_none_can_be_lent_says_so()
{
    if without_root() {
        return;
    }
    const SEES: &str = "import json\nmounts = open('/proc/self/mounts').read()\n\
        print(json.load(open('/inputs.json')))\n\
        json.dump('/opt/mecapy/runner.py' in mounts, open('/output.json', 'w'))\n";
    let world = World::start().await;
    let labels =
        ["org.mecapy.runner", "org.mecapy.parks"].map(|name| (name.to_owned(), "0".to_owned()));
    let patch = ConfigPatch { labels: labels.into(), ..ConfigPatch::default() };
    let primary = primary().await;
    let files = ["opt/mecapy/runner.py"];
    let foreign = world.function_without(SEES, &primary, true, patch, &files).await;
    let worker = world.worker_with_parked(|_| ()).await;
    for cache in ["MISS", "HIT"] {
        let task = run_parked(&world, &worker, &world.task(foreign.id, "7")).await;
        assert_eq!(
            (task.state, task.cache.as_deref()),
            (TaskState::Succeeded, Some(cache)),
            "{task:?}"
        );
        assert_eq!(
            (result(&world, &task).await.as_str(), stdout(&world, &task).await),
            ("true", 7.into())
        );
    }
    worker.stop().await;

    let worker = world.worker_with(|config| config.worker.pool.enabled = false).await;
    let task = world.run(&world.task(foreign.id, "7")).await;
    let failure = task.failure().unwrap();
    assert_eq!((task.state, failure.code.as_str()), (TaskState::Failed, "internal"));
    assert!(failure.message.contains("has no /opt/mecapy/runner.py"), "{failure:?}");
    worker.stop().await;
}
