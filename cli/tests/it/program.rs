//! Runs `mecapy` without anything of this process's environment.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

/// Far more than anything here takes: what passes it hangs.
const LIMIT: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mecapy"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub async fn mecapy(arguments: &[&str]) -> Finished {
    finish(command(arguments).spawn().unwrap()).await
}

pub async fn mecapy_with_input(arguments: &[&str], input: &str) -> Finished {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    finish(child).await
}

async fn finish(child: Child) -> Finished {
    let output =
        tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("mecapy ends").unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// One that runs, and is watched.
pub struct Running {
    child: Child,
    stderr: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
    seen: String,
}

impl Running {
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, stderr, seen: String::new() }
    }

    /// Returns once a line of standard error has this in it.
    pub async fn says(&mut self, text: &str) {
        let wait = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                self.seen.push_str(&line);
                self.seen.push('\n');
                if line.contains(text) {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(LIMIT, wait).await;
        assert!(matches!(found, Ok(true)), "never said {text:?}, but:\n{}", self.seen);
    }

    pub async fn interrupt(&self) {
        let kill = format!("kill -INT {}", self.child.id().expect("it runs"));
        assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
    }

    pub async fn finish(mut self) -> Finished {
        let rest = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                self.seen.push_str(&line);
                self.seen.push('\n');
            }
            let mut stdout = String::new();
            self.child.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
            (self.child.wait().await.unwrap(), stdout)
        };
        let (status, stdout) = tokio::time::timeout(LIMIT, rest).await.expect("mecapy ends");
        Finished { code: status.code(), stdout, stderr: self.seen }
    }
}
