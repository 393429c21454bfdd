//! Removes the containers of a set when this process is gone, whatever ended it.

use std::process::{Child, Command, Stdio};

/// The label that a set's containers carry; its value is the set's name.
pub(crate) const LABEL: &str = "org.mecapy.testkit";

/// Reads until the other end of the pipe closes, then removes the set's containers.
/// Looks several times: a `docker run` may have been under way.
const SCRIPT: &str = r#"
cat >/dev/null
for again in 1 2 3 4 5 6 7 8; do
  ids=$(docker ps --all --quiet --filter "label=$0")
  [ -z "$ids" ] || docker rm --force --volumes $ids
  sleep 0.5
done
"#;

/// Holds the pipe's write end. No other process inherits it, so it closes when this
/// value is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _shell: Child,
}

impl Watchdog {
    /// In a session of its own, so that neither Ctrl-C nor a closed terminal ends it.
    /// Its output goes nowhere: a test run waits for every holder of its own output.
    pub(crate) fn start(set: &str) -> Self {
        let shell = Command::new("setsid")
            .args(["sh", "-c", SCRIPT, &format!("{LABEL}={set}")])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`setsid` (util-linux) starts the watchdog that removes the containers");
        Self { _shell: shell }
    }
}
