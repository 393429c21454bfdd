//! What the engine has of workers, asked as an operator would ask it.

use std::process::Command;

use mecapy_proto::TaskId;

pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The word that `WAIT` waits for, if its container is up.
pub fn let_go(id: TaskId) {
    docker(&["exec", &format!("mecapy-task-{id}"), "touch", "/tmp/go"]);
}

pub fn container_exists(id: TaskId) -> bool {
    let filter = format!("name=^/?mecapy-task-{id}$");
    !docker(&["ps", "--all", "--quiet", "--filter", &filter]).trim().is_empty()
}

pub fn containers_of(worker: &str) -> String {
    docker(&["ps", "--all", "--quiet", "--filter", &format!("label=org.mecapy.worker={worker}")])
}

/// Containers of a worker that wait for a task, or have been waiting and run one.
pub fn parked_of(worker: &str) -> String {
    let worker = format!("label=org.mecapy.worker={worker}");
    docker(&["ps", "--quiet", "--filter", &worker, "--filter", "label=org.mecapy.parked"])
}

/// Containers can be parked only by root: a file of another user is not what the image has.
pub fn may_park() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}
