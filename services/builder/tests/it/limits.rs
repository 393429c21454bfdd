//! What a step of a build may use, seen from inside: of a base image, where the code of packages may run, and that of
//! every other step, since all are asked for in one way.

use mecapy_builder::Options;
use mecapy_proto::ErrorCode;
use mecapy_testkit::unique;

use crate::bases::{base_builder, folder, make, small_slim, with};

/// Says what the kernel holds it to. Then it makes processes as long as it may, 300 at most.
const PROBE: &str = r#"
import os, time

def first(*paths):
    return next((open(path).read().strip() for path in paths if os.path.exists(path)), None)

def processes():
    return first("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max")

print("memory", first("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"))
print("cpu", first("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu.max").split()[0])
# The engine's call for a build has no such limit: it comes when the container is there.
while processes() == "max":
    time.sleep(0.01)
print("processes", processes())
made = 0
for _ in range(300):
    try:
        child = os.fork()
    except OSError:
        print("made", made, flush=True)
        raise
    if child == 0:
        time.sleep(600)
    made += 1
"#;

#[tokio::test]
async fn a_step_is_held_to_its_memory_its_cpus_and_its_processes() {
    // The engine keeps what was made, by its name: this one is never made.
    let variant: String =
        unique("forks").chars().filter(char::is_ascii_alphanumeric).take(20).collect();
    let dockerfile = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY probe.py /tmp/\n\
                      RUN [\"python\", \"/tmp/probe.py\"]\n";
    let slim = small_slim("limits");
    let folder = folder(&[("slim", &slim, "print('fine')\n"), (&variant, dockerfile, "")]);
    std::fs::write(folder.path().join(format!("python-{variant}/probe.py")), PROBE).unwrap();
    let limits =
        Options { memory_bytes: 300 << 20, cpus: 1.5, max_processes: 100, ..with(folder.path()) };
    let (built, text) = make(&base_builder(limits).await, &variant).await;
    let rejection = built.unwrap_err().rejection();
    assert_eq!(rejection.code, ErrorCode::BuildFailed, "{}\n{text}", rejection.message);
    assert!(rejection.message.contains("the 100 of builder.max_processes"), "{rejection}\n{text}");
    for line in ["memory 314572800", "cpu 150000", "processes 100"] {
        assert!(text.lines().any(|said| said == line), "{line}\n{text}");
    }
    let made = text.lines().find_map(|line| line.strip_prefix("made ")).expect(&text);
    assert!((1..=100).contains(&made.parse::<u32>().unwrap()), "{made}");
}
