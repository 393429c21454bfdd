//! The few calls of the `docker` command that the servers need.

use std::process::Output;

use tokio::process::Command;

use crate::port::{Port, free_port};
use crate::server::{Spec, server_name};
use crate::watchdog::LABEL;

/// A server's container and the port on 127.0.0.1 that leads to it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) port: Port,
}

/// Another process may take a port between the choice and the start.
const PORTS_TRIED: usize = 10;

impl Container {
    pub(crate) async fn run(set: &str, spec: &Spec) -> Self {
        let name = format!("mecapy-test-{set}-{}", server_name(spec.server));
        let mut last = String::new();
        for _ in 0..PORTS_TRIED {
            let port = free_port();
            let mut arguments = vec![
                "run".to_owned(),
                "--detach".into(),
                "--pull=never".into(),
                format!("--name={name}"),
                format!("--label={LABEL}={set}"),
                format!("--publish=127.0.0.1:{}:{}", port.number, spec.port),
            ];
            if let Some(tmpfs) = spec.tmpfs {
                arguments.push(format!("--tmpfs={tmpfs}"));
            }
            for (variable, value) in &spec.environment {
                arguments.push(format!("--env={variable}={value}"));
            }
            arguments.push(spec.image.to_owned());
            arguments.extend(spec.arguments.iter().map(|&argument| argument.to_owned()));
            let output = docker(&arguments).await;
            if output.status.success() {
                return Self { name, port };
            }
            last = text(&output.stderr);
            if last.contains("No such image") || last.contains("Unable to find image") {
                panic!("the image {} is not there: run `make images`", spec.image);
            }
            if !last.contains("address already in use") && !last.contains("port is already") {
                break;
            }
            docker(&["rm", "--force", "--volumes", &name]).await;
        }
        panic!("the container {name} does not start: {last}");
    }

    pub(crate) async fn stop(&self) {
        self.must(&["stop", "--time=3", &self.name]).await;
    }

    pub(crate) async fn start(&self) {
        self.must(&["start", &self.name]).await;
    }

    /// Runs a command inside, as the image's user.
    pub(crate) async fn exec(&self, command: &[&str]) {
        self.must(&[&["exec", self.name.as_str()], command].concat()).await;
    }

    /// The last lines that the server wrote, for a panic's message.
    pub(crate) async fn last_lines(&self) -> String {
        let output = docker(&["logs", "--tail=20", &self.name]).await;
        text(&output.stdout) + &text(&output.stderr)
    }

    async fn must(&self, arguments: &[&str]) {
        let output = docker(arguments).await;
        if !output.status.success() {
            panic!("docker {}: {}", arguments.join(" "), text(&output.stderr).trim());
        }
    }
}

async fn docker(arguments: &[impl AsRef<std::ffi::OsStr>]) -> Output {
    Command::new("docker")
        .args(arguments)
        .output()
        .await
        .expect("the command `docker` is here: run `make setup`")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
