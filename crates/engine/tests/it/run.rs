//! Runs: how each end is told, what a function can't do, and that nothing is left behind.

use std::time::Duration;

use bytes::Bytes;
use mecapy_engine::{End, Error, OutputProblem, RunOutcome, RunRequest};
use mecapy_testkit::{eventually, unique};
use tokio_util::sync::CancellationToken;

use crate::fixture::{
    BASE, LONG, container_exists, docker, engine, function, run, run_of, run_whole,
};

const DOUBLE: &str = r#"
import json, sys
inputs = json.load(open("/inputs.json"))
json.dump({"double": inputs["n"] * 2}, open("/output.json", "w"))
print("said")
print("complained", file=sys.stderr)
"#;

#[tokio::test]
async fn inputs_go_in_and_the_result_and_both_streams_come_out() {
    let outcome = run(DOUBLE, |request| request.stdin = Bytes::from(r#"{"n": 21}"#)).await;
    assert_eq!(outcome.end, End::Exited(0));
    assert_eq!(outcome.output.unwrap(), r#"{"double": 42}"#);
    assert_eq!(outcome.stdout.text(), "said\n");
    assert_eq!(outcome.stderr.text(), "complained\n");
    assert!(outcome.timings.run > Duration::ZERO && outcome.timings.create > Duration::ZERO);
}

#[tokio::test]
async fn large_inputs_and_results_pass_whole() {
    let echo = "import shutil; shutil.copyfile('/inputs.json', '/output.json')";
    let inputs = Bytes::from(vec![b'7'; 10 << 20]);
    let outcome = run(echo, |request| request.stdin = inputs.clone()).await;
    assert_eq!(outcome.end, End::Exited(0));
    assert!(outcome.output.unwrap() == inputs);
}

#[tokio::test]
async fn an_exit_code_is_the_functions_own() {
    let outcome = run("raise SystemExit(3)", |_| ()).await;
    assert_eq!(outcome.end, End::Exited(3));
    assert_eq!(outcome.output, Err(OutputProblem::Missing));
    let outcome = run("raise SystemExit(137)", |_| ()).await;
    assert_eq!(outcome.end, End::Exited(137));
}

#[tokio::test]
async fn a_traceback_comes_out_on_stderr() {
    let outcome = run("1 / 0", |_| ()).await;
    assert_eq!(outcome.end, End::Exited(1));
    assert!(outcome.stderr.text().ends_with("ZeroDivisionError: division by zero\n"));
}

#[tokio::test]
async fn an_end_by_signal_is_told_as_one() {
    let outcome = run("import os; os.kill(os.getpid(), 11)", |_| ()).await;
    assert_eq!(outcome.end, End::Signaled(11));
    let outcome = run("import os; os.kill(os.getpid(), 9)", |_| ()).await;
    assert_eq!(outcome.end, End::Signaled(9));
}

#[tokio::test]
async fn a_function_that_kills_its_runner_only_ends_itself() {
    let outcome = run("import os, time; os.kill(os.getppid(), 9); time.sleep(600)", |_| ()).await;
    assert_eq!(outcome.end, End::Signaled(9));
    assert_eq!(outcome.output, Err(OutputProblem::Unreported));
}

/// Runs a function that does not end, until it got as far as that within its limit: a slow machine needs a longer one.
async fn run_out_of_time(code: &str, got_there: impl Fn(&RunOutcome) -> bool) -> RunOutcome {
    for limit in [4, 16] {
        let outcome =
            run(code, |request| request.limits.timeout = Duration::from_secs(limit)).await;
        if got_there(&outcome) {
            return outcome;
        }
    }
    run(code, |request| request.limits.timeout = Duration::from_secs(64)).await
}

#[tokio::test]
async fn a_time_out_is_told_as_one_with_what_was_said_before() {
    let code = "import time; print('before'); time.sleep(600)";
    let outcome = run_out_of_time(code, |outcome| outcome.stdout.total_bytes > 0).await;
    assert_eq!(outcome.end, End::TimedOut);
    assert_eq!(outcome.stdout.text(), "before\n");
    assert_eq!(outcome.output, Err(OutputProblem::Unreported));
}

#[tokio::test]
async fn a_function_that_never_stops_writing_is_ended_at_its_limit() {
    let code = "while True: print('x' * 65536)";
    let outcome = run_out_of_time(code, |outcome| outcome.stdout.is_truncated()).await;
    // A kill that the engine does not answer, because nobody takes what was written, is an error after a while.
    assert_eq!(outcome.end, End::TimedOut);
    assert!(outcome.stdout.is_truncated());
}

#[tokio::test]
async fn a_time_out_of_a_function_that_ignores_signals_and_fills_its_memory_is_a_time_out() {
    let code = r#"
import signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
held = bytearray(100 << 20)
time.sleep(600)
"#;
    let outcome = run(code, |request| {
        request.limits.timeout = Duration::from_secs(4);
        request.limits.memory_bytes = 160 << 20;
    })
    .await;
    assert_eq!(outcome.end, End::TimedOut);
}

#[tokio::test]
async fn too_much_memory_is_out_of_memory() {
    let code = "print('before'); held = bytearray(1 << 30)";
    let outcome = run(code, |request| request.limits.memory_bytes = 128 << 20).await;
    assert_eq!(outcome.end, End::OutOfMemory);
    assert_eq!(outcome.stdout.text(), "before\n");
}

#[tokio::test]
async fn a_full_tmp_counts_as_memory() {
    let code = r#"
with open("/tmp/large", "wb") as file:
    for _ in range(256):
        file.write(b"x" * (1 << 20))
"#;
    let outcome = run(code, |request| request.limits.memory_bytes = 128 << 20).await;
    assert_eq!(outcome.end, End::OutOfMemory);
}

#[tokio::test]
async fn a_function_that_survives_its_childs_want_of_memory_succeeds() {
    let code = r#"
import subprocess, sys
child = subprocess.run([sys.executable, "-c", "bytearray(1 << 30)"])
open("/output.json", "w").write(str(child.returncode))
"#;
    let outcome = run(code, |request| request.limits.memory_bytes = 128 << 20).await;
    assert_eq!(outcome.end, End::Exited(0));
    assert_eq!(outcome.output.unwrap(), "-9");
}

#[tokio::test]
async fn what_is_no_result_is_told_apart() {
    for (code, problem) in [
        ("pass", OutputProblem::Missing),
        ("import os; os.symlink('/etc/passwd', '/tmp/output.json')", OutputProblem::NotAFile),
        ("import os; os.mkfifo('/tmp/output.json')", OutputProblem::NotAFile),
        ("import os; os.mkdir('/tmp/output.json')", OutputProblem::NotAFile),
        (
            "import socket; socket.socket(socket.AF_UNIX).bind('/tmp/output.json')",
            OutputProblem::NotAFile,
        ),
        (
            "open('/output.json', 'w').write('1' * 101)",
            OutputProblem::TooLarge { limit_bytes: 100 },
        ),
    ] {
        let outcome = run(code, |request| request.limits.output_bytes = 100).await;
        assert_eq!((outcome.end, outcome.output), (End::Exited(0), Err(problem)), "{code}");
    }
}

#[tokio::test]
async fn a_stream_over_its_cap_is_cut_and_says_so() {
    let code = r#"
import sys
sys.stdout.write("begin" + "x" * (30 << 20) + "end")
sys.stderr.write("short")
"#;
    let outcome = run(code, |request| request.limits.stdout_bytes = 1000).await;
    assert_eq!(outcome.end, End::Exited(0));
    assert!(outcome.stdout.is_truncated());
    assert_eq!(outcome.stdout.total_bytes, (30 << 20) + 8);
    assert_eq!(outcome.stdout.head.len() + outcome.stdout.tail.len(), 1000);
    assert!(outcome.stdout.head.starts_with(b"begin") && outcome.stdout.tail.ends_with(b"xend"));
    assert!(!outcome.stderr.is_truncated());
}

#[tokio::test]
async fn a_process_that_the_function_leaves_does_not_hold_it_up() {
    let code = r#"
import subprocess
subprocess.Popen(["sh", "-c", "sleep 600"])
subprocess.Popen(["sh", "-c", "while :; do echo spam; done"], start_new_session=True)
open("/output.json", "w").write("1")
"#;
    let outcome = run(code, |_| ()).await;
    assert_eq!((outcome.end, outcome.output.unwrap().as_ref()), (End::Exited(0), &b"1"[..]));
}

#[tokio::test]
async fn a_function_is_shut_in() {
    let code = r#"
import json, os, socket

def refused(action):
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return "allowed"

def status(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(field + ":"))

json.dump({
    "uid": os.getuid(),
    "cwd": os.getcwd(),
    "interfaces": sorted(os.listdir("/sys/class/net")),
    "connect": refused(lambda: socket.create_connection(("192.0.2.1", 80), 1)),
    "root": refused(lambda: open("/file", "w")),
    "app": refused(lambda: open("/app/file", "w")),
    "venv": refused(lambda: open("/opt/venv/file", "w")),
    "tmp": refused(lambda: open("/tmp/file", "w")),
    "capabilities": [status("CapEff"), status("CapBnd")],
    "no_new_privileges": status("NoNewPrivs"),
    "tmp_bytes": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize,
}, open("/output.json", "w"))
"#;
    let outcome = run(code, |_| ()).await;
    let output = outcome.output.unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&output).unwrap();
    let read_only = "Read-only file system";
    let expected = serde_json::json!({
        "uid": 1000,
        "cwd": "/app",
        "interfaces": ["lo"],
        "connect": "Network is unreachable",
        "root": read_only,
        "app": read_only,
        "venv": read_only,
        "tmp": "allowed",
        "capabilities": ["0000000000000000", "0000000000000000"],
        "no_new_privileges": "1",
        "tmp_bytes": 536_870_912,
    });
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_a_function_may_use_is_the_kernels_to_watch() {
    // Of either version of the control groups.
    let code = r#"
import json
def read(*paths):
    for path in paths:
        try:
            return open("/sys/fs/cgroup/" + path).read().split()
        except FileNotFoundError:
            pass
period = read("cpu/cpu.cfs_period_us") or ["1"]
cpu = read("cpu/cpu.cfs_quota_us", "cpu.max")
cpu = int(cpu[0]) / int(cpu[1] if len(cpu) > 1 else period[0])
swap = read("memory/memory.memsw.limit_in_bytes")
json.dump({
    "cpus": cpu,
    "memory": int(read("memory/memory.limit_in_bytes", "memory.max")[0]),
    "swap": int(swap[0]) - (100 << 20) if swap else int((read("memory.swap.max") or ["0"])[0]),
    "pids": int(read("pids/pids.max", "pids.max")[0]),
}, open("/output.json", "w"))
"#;
    let outcome = run(code, |request| {
        request.limits.cpus = 1.5;
        request.limits.memory_bytes = 100 << 20;
        request.limits.pids = 77;
    })
    .await;
    let output = outcome.output.unwrap_or_else(|_| panic!("{}", outcome.stderr.text()));
    let seen: serde_json::Value = serde_json::from_slice(&output).unwrap();
    let expected = serde_json::json!({
        "cpus": 1.5, "memory": 100 << 20, "swap": 0, "pids": 77,
    });
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn more_than_its_512_mb_does_not_fit_into_tmp() {
    let code = r#"
import errno
written = 0
try:
    with open("/tmp/large", "wb", buffering=0) as file:
        while True:
            written += file.write(bytes(1 << 20))
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    import os
    os.unlink("/tmp/large")
    open("/output.json", "w").write(str(written >> 20))
"#;
    let outcome = run(code, |_| ()).await;
    assert_eq!(outcome.end, End::Exited(0), "{}", outcome.stderr.text());
    let written: u32 = std::str::from_utf8(&outcome.output.unwrap()).unwrap().parse().unwrap();
    assert!((500..=512).contains(&written), "{written} MiB");
}

#[tokio::test]
async fn a_fork_bomb_ends_at_the_limit_of_processes() {
    let code = r#"
import os, time
made = 0
try:
    while made < 1000:
        if os.fork() == 0:
            time.sleep(600)
        made += 1
except OSError:
    pass
open("/output.json", "w").write(str(made))
"#;
    let outcome = run(code, |request| request.limits.pids = 64).await;
    let made: u32 = std::str::from_utf8(&outcome.output.unwrap()).unwrap().parse().unwrap();
    assert!(made < 64, "{made} processes");
}

#[tokio::test]
async fn an_image_without_the_runner_says_so_on_stderr() {
    let engine = engine().await;
    let request = RunRequest {
        image: BASE.into(),
        name: unique("mecapy-engine-test"),
        cmd: ["python", "-I", "/no/runner.py"].map(String::from).to_vec(),
        ..RunRequest::default()
    };
    let outcome = run_whole(&engine, request, &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.end, End::Exited(2));
    assert_eq!(outcome.output, Err(OutputProblem::Unreported));
    assert!(outcome.stderr.text().contains("No such file"), "{}", outcome.stderr.text());
}

#[tokio::test]
async fn what_no_runner_writes_is_garbled() {
    let engine = engine().await;
    let request = RunRequest {
        image: BASE.into(),
        name: unique("mecapy-engine-test"),
        cmd: ["python", "-c", "print('Hello, world')"].map(String::from).to_vec(),
        ..RunRequest::default()
    };
    let outcome = run_whole(&engine, request, &CancellationToken::new()).await.unwrap();
    assert_eq!((outcome.end, outcome.output), (End::Exited(0), Err(OutputProblem::Garbled)));
}

#[tokio::test]
async fn a_cancel_ends_the_run_and_removes_its_container() {
    let engine = engine().await;
    let image = function(&engine, "import time; time.sleep(600)").await;
    let request = run_of(&image);
    let name = request.name.clone();
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let (engine, cancel) = (engine.clone(), cancel.clone());
        async move { run_whole(&engine, request, &cancel).await }
    });
    eventually("the container runs", LONG, async || is_running(&name).then_some(())).await;
    cancel.cancel();
    assert_eq!(running.await.unwrap().unwrap().end, End::Cancelled);
    assert!(!container_exists(&name));
}

#[tokio::test]
async fn a_run_that_was_cancelled_before_never_starts() {
    let engine = engine().await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let request = RunRequest { image: "no/such:image".into(), ..RunRequest::default() };
    assert_eq!(run_whole(&engine, request, &cancel).await.unwrap().end, End::Cancelled);
}

#[tokio::test]
async fn dropping_the_future_removes_the_container() {
    let engine = engine().await;
    let image = function(&engine, "import time; time.sleep(600)").await;
    let request = run_of(&image);
    let name = request.name.clone();
    let running =
        tokio::spawn(async move { run_whole(&engine, request, &CancellationToken::new()).await });
    eventually("the container runs", LONG, async || is_running(&name).then_some(())).await;
    running.abort();
    eventually("the container is gone", LONG, async || (!container_exists(&name)).then_some(()))
        .await;
}

#[tokio::test]
async fn a_container_that_cannot_start_is_removed() {
    let engine = engine().await;
    let name = unique("mecapy-engine-test");
    let request = RunRequest {
        image: BASE.into(),
        name: name.clone(),
        cmd: vec!["/no/such/program".into()],
        runtime: None,
        ..RunRequest::default()
    };
    let ended = run_whole(&engine, request, &CancellationToken::new()).await;
    // With an init in front, the engine can't see that the program is missing: init says so.
    match ended {
        Ok(outcome) => assert_eq!(outcome.end, End::Exited(127)),
        Err(error) => assert!(matches!(error, Error::Start { .. }), "{error:?}"),
    }
    assert!(!container_exists(&name));
}

#[tokio::test]
async fn a_container_that_someone_else_removes_is_never_a_success() {
    let engine = engine().await;
    let image = function(&engine, "import time; time.sleep(600)").await;
    let request = run_of(&image);
    let name = request.name.clone();
    let running = tokio::spawn({
        let engine = engine.clone();
        async move { run_whole(&engine, request, &CancellationToken::new()).await }
    });
    eventually("the container runs", LONG, async || is_running(&name).then_some(())).await;
    assert!(engine.remove_container(&name).await.unwrap());
    match running.await.unwrap() {
        // Killed first, and seen before it was removed.
        Ok(outcome) => {
            assert_eq!(outcome.end, End::Signaled(9));
            assert_eq!(outcome.output, Err(OutputProblem::Unreported));
        }
        Err(error) => {
            assert!(matches!(error, Error::ContainerLost { .. }), "{error:?}");
            assert!(error.is_transient());
        }
    }
}

#[tokio::test]
async fn an_absent_image_and_a_taken_name_are_told() {
    let engine = engine().await;
    let absent = RunRequest {
        image: "mecapy-engine-test/absent:v1".into(),
        name: unique("mecapy-engine-test"),
        ..RunRequest::default()
    };
    let error = run_whole(&engine, absent, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::ImageNotFound { .. }), "{error:?}");

    let name = unique("mecapy-engine-test");
    docker(&["create", "--name", &name, BASE]);
    let taken = RunRequest { image: BASE.into(), name: name.clone(), ..RunRequest::default() };
    let error = run_whole(&engine, taken, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::NameTaken { .. }), "{error:?}");
    assert!(container_exists(&name), "the other's container was removed");
    assert!(engine.remove_container(&name).await.unwrap());
    assert!(!engine.remove_container(&name).await.unwrap());
}

#[tokio::test]
async fn what_was_left_is_found_by_its_label_and_removed() {
    let engine = engine().await;
    let label = format!("org.mecapy.test={}", unique("left"));
    let (running, created) = (unique("mecapy-engine-test"), unique("mecapy-engine-test"));
    docker(&["run", "--detach", "--label", &label, "--name", &running, BASE, "sleep", "600"]);
    docker(&["create", "--label", &label, "--name", &created, BASE]);

    let mut found = engine.remove_containers(&[&label]).await.unwrap();
    found.sort_by_key(|container| container.running);
    let found: Vec<_> = found.iter().map(|c| (c.name.as_str(), c.running)).collect();
    assert_eq!(found, [(created.as_str(), false), (running.as_str(), true)]);
    assert!(!container_exists(&running) && !container_exists(&created));
    assert_eq!(engine.remove_containers(&[]).await.unwrap(), []);
}

fn is_running(name: &str) -> bool {
    let filter = format!("name=^/?{name}$");
    docker(&["ps", "--filter", &filter, "--format", "{{.Status}}"]).contains("Up")
}
