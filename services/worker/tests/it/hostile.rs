//! What a function tries that it must not do, in the container that its dependencies waited in: each is denied, and
//! the worker and its other tasks go on.

use mecapy_proto::v1::TaskDispatch;
use mecapy_store::TaskState;
use serde_json::{Value, json};

use crate::containers::may_park;
use crate::world::{DOUBLE, WAIT, World};

/// Every attempt says why it failed, or that it did not.
const ATTEMPTS: &str = r#"
import ctypes, json, os, platform, signal, socket, subprocess

libc = ctypes.CDLL(None, use_errno=True)

def refused(action):
    try:
        action()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    return "allowed"

def call(name, *arguments):
    def action():
        if getattr(libc, name)(*arguments) == -1:
            raise OSError(ctypes.get_errno(), name)
    return refused(action)

def connect(family, address):
    def action():
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(2)
            s.connect(address)
    return refused(action)

def write(path):
    return refused(lambda: open(path, "w").write("1"))

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(field + ":"))

def others():
    names = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            names.add(open(f"/proc/{pid}/cmdline").read().split("\0")[0].rsplit("/", 1)[-1])
        except OSError:
            pass
    return sorted(names)

def system_call(numbers, *arguments):
    return call("syscall", numbers[platform.machine()], *arguments)

def writable():
    found = []
    for folder, folders, _ in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys")]
        if write(os.path.join(folder, ".attempt")) == "allowed":
            os.unlink(os.path.join(folder, ".attempt"))
            found.append(folder)
    return sorted(found)

def of_a_program_of_root():
    """The users that it runs as: it waits for a password."""
    with subprocess.Popen(["su"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as su:
        lines = open(f"/proc/{su.pid}/status").read().splitlines()
        su.kill()
    return next(line for line in lines if line.startswith("Uid:")).split()[1:]

json.dump({
    "is_parked": "/app/user_function.py" in open("/proc/self/mounts").read(),
    "network": connect(socket.AF_INET, ("192.0.2.1", 80)),
    "gateway_of_docker": connect(socket.AF_INET, ("172.17.0.1", 2375)),
    "interfaces": sorted(os.listdir("/sys/class/net")),
    "docker_socket": connect(socket.AF_UNIX, "/var/run/docker.sock"),
    "root": write("/file"),
    "app": write("/app/file"),
    "venv": write("/opt/venv/file"),
    "writable": writable(),
    "su": [of_a_program_of_root(), os.stat("/usr/bin/su").st_mode & 0o4000 > 0],
    "keys": system_call({"x86_64": 248, "aarch64": 217}, b"user", b"name", b"key", 3, -4),
    "kernel_program": system_call({"x86_64": 321, "aarch64": 280}, 5, None, 0),
    "watch": system_call({"x86_64": 298, "aarch64": 241}, None, 0, -1, -1, 0),
    "code": write("/app/user_function.py"),
    "other_code": refused(lambda: os.rename("/app/user_function.py", "/tmp/x")),
    "sys": write("/sys/kernel/uevent_helper"),
    "sysctl": write("/proc/sys/kernel/core_pattern"),
    "sysrq": write("/proc/sysrq-trigger"),
    "kernel_memory": refused(lambda: open("/proc/kcore", "rb").read(64)),
    "device": refused(lambda: os.mknod("/tmp/sda", 0o600 | 0o060000, os.makedev(8, 0))),
    "mount": call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "unmount": call("umount2", b"/app/user_function.py", 2),
    "chroot": refused(lambda: os.chroot("/tmp")),
    "namespace": call("unshare", 0x10000000 | 0x00020000),
    "setuid": refused(lambda: os.setuid(0)),
    "setgid": refused(lambda: os.setgid(0)),
    "host_name": refused(lambda: socket.sethostname("x")),
    "priority": refused(lambda: os.nice(-5)),
    "capabilities": [status(field) for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status("NoNewPrivs"),
    "others": others(),
    "secrets": [name for name in os.environ if "MECAPY" in name or "PASS" in name or "TOKEN" in name],
    "tmp": sorted(os.listdir("/tmp")),
}, open("/output.json", "w"))
"#;

async fn result(world: &World, task: &mecapy_store::tasks::Task) -> Value {
    let key = task.result_key.as_ref().unwrap_or_else(|| panic!("{task:?}"));
    serde_json::from_slice(&world.object(key).await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_shut_in_in_a_parked_container_and_in_its_own() {
    if !may_park() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|_| ()).await;
    let bystander = world.function(WAIT).await;
    let bystander = world.send(&world.task(bystander.id, "{}")).await;
    world.until_it_runs(bystander).await;
    let function = world.function(ATTEMPTS).await;
    world.until_one_waits(&worker).await;
    let task = world.run(&world.task(function.id, "{}")).await;
    see_that_it_is_shut_in(&result(&world, &task).await, true);
    let waited = world.let_end(bystander).await;
    assert_eq!((waited.state, waited.attempt), (TaskState::Succeeded, 1), "{waited:?}");
    worker.stop().await;

    let worker = world.worker_with(|config| config.worker.pool.enabled = false).await;
    let task = world.run(&world.task(function.id, "{}")).await;
    see_that_it_is_shut_in(&result(&world, &task).await, false);
    worker.stop().await;
}

fn see_that_it_is_shut_in(seen: &Value, is_parked: bool) {
    let (denied, read_only) = ("Operation not permitted", "Read-only file system");
    for (what, expected) in [
        ("is_parked", json!(is_parked)),
        ("network", json!("Network is unreachable")),
        ("gateway_of_docker", json!("Network is unreachable")),
        ("interfaces", json!(["lo"])),
        ("docker_socket", json!("No such file or directory")),
        ("root", json!(read_only)),
        ("app", json!(read_only)),
        ("venv", json!(read_only)),
        // The last two as with `docker run`: small, in memory, and gone with the container.
        ("writable", json!(["/dev/mqueue", "/dev/shm", "/tmp"])),
        ("su", json!([["1000", "1000", "1000", "1000"], true])),
        ("keys", json!(denied)),
        ("kernel_program", json!(denied)),
        ("watch", json!(denied)),
        ("sys", json!(read_only)),
        ("sysctl", json!(read_only)),
        ("device", json!(denied)),
        ("mount", json!(denied)),
        ("unmount", json!(denied)),
        ("chroot", json!(denied)),
        ("namespace", json!(denied)),
        ("setuid", json!(denied)),
        ("setgid", json!(denied)),
        ("host_name", json!(denied)),
        ("capabilities", json!(vec!["0000000000000000"; 5])),
        ("no_new_privileges", json!("1")),
        ("secrets", json!([])),
        // Without the result, which is being written.
        ("tmp", json!(["inputs.json"])),
    ] {
        assert_eq!(seen[what], expected, "{what}: {seen:#}");
    }
    for what in ["code", "other_code", "sysrq", "kernel_memory", "priority"] {
        assert_ne!(seen[what], "allowed", "{what}: {seen:#}");
    }
    for other in seen["others"].as_array().unwrap() {
        let other = other.as_str().unwrap();
        let expected = other.is_empty() || other.contains("init") || other.contains("python");
        assert!(expected, "a process of another container is seen: {seen:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_all_it_can_get_ends_and_the_other_tasks_do_not_notice() {
    if !may_park() {
        return;
    }
    let world = World::start().await;
    let worker = world.worker_with_parked(|config| config.worker.limits.pids = 64).await;
    let bystander = world.function(WAIT).await;
    let bystander = world.send(&world.task(bystander.id, "{}")).await;
    world.until_it_runs(bystander).await;
    let run = async |code: &str, timeout_ms: u64| {
        let function = world.function(code).await;
        world.until_one_waits(&worker).await;
        world.run(&TaskDispatch { timeout_ms, ..world.task(function.id, "{}") }).await
    };

    let forks = "import os, time\nmade = 0\ntry:\n    while made < 1000:\n        if os.fork() == 0: time.sleep(600)\n        made += 1\nexcept OSError: pass\nopen('/output.json', 'w').write(str(made))\n";
    let task = run(forks, 0).await;
    assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
    assert!(result(&world, &task).await.as_u64().unwrap() < 64);

    let escapes = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\nopen('/output.json', 'w').write('1')\n";
    assert_eq!(run(escapes, 0).await.state, TaskState::Succeeded, "who escapes is not waited for");

    let spins =
        "import signal\nfor n in (15, 2, 1): signal.signal(n, signal.SIG_IGN)\nwhile True: pass\n";
    assert_eq!(run(spins, 2_000).await.state, TaskState::TimedOut);
    let fills = "f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(1 << 20))\n";
    assert_eq!(run(fills, 0).await.state, TaskState::Oom);
    let says = "while True: print('x' * 65536)\n";
    assert_eq!(run(says, 2_000).await.state, TaskState::TimedOut);

    let waited = world.let_end(bystander).await;
    assert_eq!((waited.state, waited.attempt), (TaskState::Succeeded, 1), "{waited:?}");
    let after = world.function(DOUBLE).await;
    let after = world.run(&world.task(after.id, r#"{"n": 2}"#)).await;
    assert_eq!(result(&world, &after).await, json!({ "double": 4 }));
    worker.stop().await;
}
