//! Containers that wait: one turn, nothing without inputs, and gone with their owner.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mecapy_engine::{
    BuildRequest, ContextFile, End, Error, Limits, LogSink, OutputProblem, OutputSink, Parked,
    ReadOnlyFile, RunRequest, Turn,
};
use mecapy_registry::Digest;
use mecapy_testkit::{eventually, unique};
use tokio_util::sync::CancellationToken;

use crate::fixture::{BASE, LONG, LocalImage, container_exists, docker, engine};

/// A container of the base image that waits, and the file that stands for its code.
async fn park(imports: &[&str]) -> (Parked, PathBuf, String) {
    park_with(imports, Limits::default().memory_bytes).await
}

async fn park_with(imports: &[&str], memory_bytes: u64) -> (Parked, PathBuf, String) {
    park_of(BASE, imports, memory_bytes).await
}

async fn park_of(image: &str, imports: &[&str], memory_bytes: u64) -> (Parked, PathBuf, String) {
    let code = std::env::temp_dir().join(unique("mecapy-engine-test"));
    std::fs::write(&code, "nothing yet").unwrap();
    let name = unique("mecapy-engine-test");
    let request = RunRequest {
        image: image.to_owned(),
        name: name.clone(),
        limits: Limits { memory_bytes, ..Limits::default() },
        file: Some(ReadOnlyFile {
            host: code.clone(),
            container: "/app/user_function.py".to_owned(),
        }),
        ..RunRequest::default()
    };
    let imports: Vec<String> = imports.iter().map(|name| (*name).to_owned()).collect();
    let parked = engine().await.park(request, &imports).await.unwrap();
    (parked, code, name)
}

fn turn(inputs: &'static str, code: &str) -> Turn {
    Turn {
        inputs: inputs.into(),
        timeout: Duration::from_secs(60),
        code_sha256: Digest::of(code.as_bytes()).hex(),
        live: None,
    }
}

async fn until_gone(name: &str) {
    eventually("the container is gone", LONG, async || (!container_exists(name)).then_some(()))
        .await;
}

#[tokio::test]
async fn what_waits_runs_the_code_that_is_laid_out_later_and_goes() {
    let (mut parked, file, name) = park(&[]).await;
    assert!(parked.is_waiting());
    assert!(parked.words().ends_with("nothing yet"), "{}", parked.words());
    let code = "import shutil, sys\nshutil.copyfile('/inputs.json', '/output.json')\nprint('said')\nprint('complained', file=sys.stderr)\n";
    std::fs::write(&file, code).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let live = Arc::clone(&heard);
    let live = OutputSink::new(move |piece| live.lock().unwrap().extend_from_slice(piece));
    let turn = Turn { live: Some(live), ..turn("[1]", code) };
    let (outcome, spent) = parked.run(turn, &CancellationToken::new()).await.unwrap();
    let heard = String::from_utf8(heard.lock().unwrap().clone()).unwrap();
    assert!(heard.contains("said\n") && heard.contains("complained\n"), "{heard}");
    assert!(container_exists(&name), "it is there as long as it is held");
    drop(spent);
    assert_eq!((outcome.end, outcome.output.unwrap()), (End::Exited(0), "[1]".into()));
    assert_eq!(
        (outcome.stdout.text(), outcome.stderr.text()),
        ("said\n".into(), "complained\n".into())
    );
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

/// What the engine did with a container that is gone. It tells of whole seconds that have passed.
async fn events_of(name: &str) -> String {
    let filter = format!("container={name}");
    let events = ["--since", "10m", "--until", "0s", "--format", "{{.Action}}"];
    eventually("its end is told", LONG, async || {
        let told = docker(&[&["events", "--filter", &filter][..], &events].concat());
        told.contains("destroy").then_some(told)
    })
    .await
}

#[tokio::test]
async fn what_ended_well_ends_by_itself_and_what_does_not_is_killed() {
    let (parked, file, name) = park(&[]).await;
    let code = "open('/output.json', 'w').write('1')";
    std::fs::write(&file, code).unwrap();
    let (outcome, spent) = parked.run(turn("{}", code), &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.end, End::Exited(0));
    spent.remove().await;
    assert!(!container_exists(&name));
    let events = events_of(&name).await;
    assert!(events.contains("die") && !events.contains("kill"), "{events}");
    std::fs::remove_file(file).unwrap();

    let (parked, file, name) = park(&[]).await;
    std::fs::write(&file, code).unwrap();
    let (outcome, spent) = parked.run(turn("{}", code), &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.end, End::Exited(0));
    // As what a function leaves behind could. The pattern does not find the shell itself.
    let stop = "for it in /proc/[0-9]*; do grep -q 'runner[.]py' $it/cmdline && kill -STOP ${it#/proc/}; done";
    docker(&["exec", &name, "sh", "-c", stop]);
    eventually("the runner is stopped", LONG, async || {
        docker(&["top", &name, "-o", "pid,stat,args"])
            .lines()
            .any(|line| line.contains(" T") && line.contains("runner.py"))
            .then_some(())
    })
    .await;
    spent.remove().await;
    assert!(!container_exists(&name));
    let events = events_of(&name).await;
    assert!(events.contains("kill"), "{events}");
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn another_turn_finds_nothing_of_the_last_one() {
    let (mut parked, file, name) = park(&["json"]).await;
    let code = r#"
import json, os, time
seen = {
    "inputs": json.load(open("/inputs.json")),
    "processes": len([pid for pid in os.listdir("/proc") if pid.isdigit()]),
    "files": sorted(set(sum(map(os.listdir, ("/tmp", "/dev/shm", "/dev/mqueue")), [])) - {"inputs.json"}),
    "state": hasattr(json, "state"),
    "descriptors": len(os.listdir("/proc/self/fd")),
}
json.state = 1
os.makedirs("/tmp/folder/inner")
open("/tmp/folder/inner/file", "w").close()
os.symlink("/opt", "/tmp/folder/link")
os.chmod("/tmp/folder", 0)
for folder in ("/dev/shm", "/dev/mqueue"):
    open(folder + "/file", "w").close()
ready, is_ready = os.pipe()
if os.fork() == 0:
    os.setsid()
    # So much that a process which is killed takes a while to be gone.
    held = b"x" * (512 << 20)
    os.write(is_ready, b"1")
    time.sleep(600)
os.read(ready, 1)
json.dump(seen, open("/output.json", "w"))
"#;
    std::fs::write(&file, code).unwrap();
    let inputs = ["1", "2", "3"];
    for (number, inputs) in inputs.into_iter().enumerate() {
        let (outcome, spent) =
            parked.run(turn(inputs, code), &CancellationToken::new()).await.unwrap();
        let seen = outcome.output.unwrap_or_else(|_| panic!("{}", outcome.stderr.text()));
        let seen: serde_json::Value = serde_json::from_slice(&seen).unwrap();
        // The first process, the runner, and the function.
        let expected = serde_json::json!({
            "inputs": number + 1, "processes": 3, "files": [], "state": false, "descriptors": 4,
        });
        assert_eq!(seen, expected);
        parked = spent.park_again().await.unwrap();
    }
    drop(parked);
    until_gone(&name).await;

    // What was killed in the last turn for want of memory does not count in this one.
    let (parked, large, name) = park_with(&[], 64 << 20).await;
    let code = "
import os
if open('/inputs.json').read() == 'fail':
    raise SystemExit(3)
if os.fork() == 0:
    open('/proc/self/oom_score_adj', 'w').write('1000')
    x = bytearray(200 << 20)
    os._exit(0)
assert os.wait()[1] == 9
open('/output.json', 'w').write('1')
";
    std::fs::write(&large, code).unwrap();
    let (outcome, spent) = parked.run(turn("{}", code), &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.end, End::Exited(0), "{}", outcome.stderr.text());
    let parked = spent.park_again().await.unwrap();
    let (outcome, spent) = parked.run(turn("fail", code), &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.end, End::Exited(3));
    spent.remove().await;
    assert!(!container_exists(&name));

    // What did not end well has no other turn.
    let (parked, other, name) = park(&[]).await;
    std::fs::write(&other, "1 / 0").unwrap();
    let (outcome, spent) =
        parked.run(turn("{}", "1 / 0"), &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.end, End::Exited(1));
    let error = spent.park_again().await.unwrap_err();
    assert!(matches!(error, Error::NotParked { .. }), "{error:?}");
    until_gone(&name).await;
    for file in [file, large, other] {
        std::fs::remove_file(file).unwrap();
    }
}

/// What no name in a folder leads to, and what is too deep to be removed by its path.
#[tokio::test]
async fn what_cannot_be_cleared_away_ends_the_container() {
    let shared_memory = "import ctypes\nassert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0\n";
    let queue = "import ctypes\nassert ctypes.CDLL(None).msgget(0, 0o1600) >= 0\n";
    let deep = "import os\nos.chdir('/tmp')\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n";
    for left in [shared_memory, queue, deep] {
        let code = format!("{left}open('/output.json', 'w').write('1')\n");
        let (parked, file, name) = park(&[]).await;
        std::fs::write(&file, &code).unwrap();
        let (outcome, spent) =
            parked.run(turn("{}", &code), &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome.end, End::Exited(0), "{}", outcome.stderr.text());
        let error = spent.park_again().await.unwrap_err();
        assert!(matches!(error, Error::NotParked { .. }), "{error:?}");
        until_gone(&name).await;
        std::fs::remove_file(file).unwrap();
    }
}

#[tokio::test]
async fn imports_that_cannot_be_done_ahead_are_tried_once_and_not_at_each_turn() {
    // It prints.
    let (mut parked, file, name) = park(&["this"]).await;
    let code = "import os\nopen('/output.json', 'w').write(str(os.getpid()))\n";
    std::fs::write(&file, code).unwrap();
    let mut numbers: Vec<u32> = Vec::new();
    for _ in 0..3 {
        let (outcome, spent) =
            parked.run(turn("{}", code), &CancellationToken::new()).await.unwrap();
        numbers.push(std::str::from_utf8(&outcome.output.unwrap()).unwrap().parse().unwrap());
        parked = spent.park_again().await.unwrap();
    }
    drop(parked);
    // Nothing else begins in there.
    assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn other_code_than_was_laid_out_counts_for_nothing() {
    let (parked, file, name) = park(&[]).await;
    std::fs::write(&file, "open('/output.json', 'w').write('1')").unwrap();
    let error = parked.run(turn("{}", "other"), &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::OtherCode { .. }), "{error:?}");
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn without_inputs_nothing_is_run() {
    let (parked, file, name) = park(&[]).await;
    let code = "open('/output.json', 'w').write('1')";
    std::fs::write(&file, code).unwrap();
    let error = parked.run(turn("", code), &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::ContainerLost { .. }), "{error:?}");
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn what_is_dropped_or_killed_is_gone_and_known_to_be() {
    let (dropped, file, name) = park(&[]).await;
    drop(dropped);
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();

    let (mut killed, file, name) = park(&[]).await;
    docker(&["kill", &name]);
    eventually("it is known to be dead", LONG, async || (!killed.is_waiting()).then_some(())).await;
    drop(killed);
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn an_import_that_can_be_noticed_is_not_done_ahead() {
    let code = "import sys\nopen('/output.json', 'w').write(str(['json' in sys.modules, 'this' in sys.modules]))\n";
    for (imports, seen) in [
        (&["json"][..], "[True, False]"),
        // It prints.
        (&["json", "this"], "[False, False]"),
        // One that isn't there is the function's to miss.
        (&["json", "no_such_module"], "[True, False]"),
    ] {
        let (parked, file, name) = park(imports).await;
        std::fs::write(&file, code).unwrap();
        let (outcome, _) = parked.run(turn("{}", code), &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome.output.unwrap(), seen, "{imports:?}");
        assert_eq!(outcome.stdout.text(), "");
        until_gone(&name).await;
        std::fs::remove_file(file).unwrap();
    }
}

/// Modules, and what each does when it is imported.
const NOTICEABLE: &[(&str, &str)] = &[
    ("prints", "print('imported')"),
    ("sets_a_signal_handler", "import signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)"),
    (
        "starts_a_thread",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    ),
    ("sets_the_locale", "import locale\nlocale.setlocale(locale.LC_ALL, 'C')"),
    ("goes_elsewhere", "import os\nos.chdir('/')"),
    ("sets_a_variable", "import os\nos.environ['SET_BY_A_MODULE'] = '1'"),
    ("sets_the_mask", "import os\nos.umask(0o77)"),
    ("adds_a_path", "import sys\nsys.path.append('/opt')"),
    ("takes_stdout", "import io, sys\nsys.stdout = io.StringIO()"),
    ("takes_exceptions", "import sys\nsys.excepthook = lambda *of: None"),
    ("writes_a_file", "open('/tmp/left', 'w').close()"),
    ("allows_more", "import sys\nsys.setrecursionlimit(5000)"),
];

#[tokio::test]
async fn each_effect_of_an_import_that_a_function_could_notice_keeps_it_from_being_done_ahead() {
    let engine = engine().await;
    let packages = "/opt/venv/lib/python3.11/site-packages";
    let tag = format!("mecapy-engine-test/{}:v1", unique("noticeable"));
    let harmless = [("harmless", "import json"), ("fails", "1 / 0")];
    let request = BuildRequest {
        dockerfile: format!("FROM {BASE}\nCOPY . {packages}/\n"),
        files: NOTICEABLE
            .iter()
            .chain(&harmless)
            .map(|(name, code)| ContextFile::new(format!("{name}.py"), (*code).to_owned()))
            .collect(),
        tag: tag.clone(),
        no_cache: true,
        ..BuildRequest::default()
    };
    let image = LocalImage(tag);
    engine.build(request, &LogSink::discard(), &CancellationToken::new()).await.unwrap();

    let run = async |name: &str| {
        let code = format!(
            "import sys\nopen('/output.json', 'w').write(str([name in sys.modules for name in ('{name}', 'decimal')]))\n"
        );
        let (parked, file, container) =
            park_of(&image.0, &["decimal", name], Limits::default().memory_bytes).await;
        std::fs::write(&file, &code).unwrap();
        let (outcome, _) = parked.run(turn("{}", &code), &CancellationToken::new()).await.unwrap();
        until_gone(&container).await;
        std::fs::remove_file(file).unwrap();
        (outcome.stdout.text(), String::from_utf8(outcome.output.unwrap().to_vec()).unwrap())
    };
    assert_eq!(run("harmless").await, (String::new(), "[True, True]".to_owned()));
    assert_eq!(run("fails").await, (String::new(), "[False, True]".to_owned()));
    for (name, _) in NOTICEABLE {
        assert_eq!(run(name).await, (String::new(), "[False, False]".to_owned()), "{name}");
    }
}

#[tokio::test]
async fn large_inputs_pass_whole() {
    let (parked, file, name) = park(&[]).await;
    let code = "import os\nopen('/output.json', 'w').write(str(os.stat('/inputs.json').st_size))";
    std::fs::write(&file, code).unwrap();
    let inputs = vec![b' '; 3_000_001];
    let turn = Turn { inputs: inputs.into(), ..turn("", code) };
    let (outcome, _) = parked.run(turn, &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.output.unwrap(), "3000001");
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_function_that_garbles_what_its_runner_tells_fails_at_once() {
    let (parked, file, name) = park(&[]).await;
    let code =
        "import os\nwith open('/proc/%d/fd/1' % os.getppid(), 'wb') as out: out.write(b'!!!!!!')\n";
    std::fs::write(&file, code).unwrap();
    let (outcome, _) = parked.run(turn("{}", code), &CancellationToken::new()).await.unwrap();
    assert_eq!((outcome.end, outcome.output), (End::Exited(0), Err(OutputProblem::Garbled)));
    until_gone(&name).await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_failure_is_told_with_the_evidence_of_its_end() {
    for (code, end) in [
        ("raise SystemExit(137)", End::Exited(137)),
        ("import os; os.kill(os.getpid(), 9)", End::Signaled(9)),
        ("import os, time; time.sleep(2); os.kill(os.getpid(), 11)", End::Signaled(11)),
        ("held = bytearray(3 << 30)", End::OutOfMemory),
    ] {
        let (parked, file, name) = park(&[]).await;
        std::fs::write(&file, code).unwrap();
        let (outcome, _) = parked.run(turn("{}", code), &CancellationToken::new()).await.unwrap();
        assert_eq!(outcome.end, end, "{code}");
        until_gone(&name).await;
        std::fs::remove_file(file).unwrap();
    }
}
