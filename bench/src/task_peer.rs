//! The peer of tasks: a function's image with `docker run`, with the flags and inputs that the worker gives it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mecapy_testkit::RegistryServer;
use tokio::process::Command;

pub const INPUTS: &str = r#"{"n": 21}"#;
/// As the worker has them by default.
const FLAGS: [&str; 17] = [
    "--network=none",
    "--read-only",
    "--tmpfs=/tmp:size=512m,mode=1777",
    "--memory=2g",
    "--memory-swap=2g",
    "--cpus=2",
    "--pids-limit=256",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges:true",
    "--user=1000:1000",
    "--init",
    "--log-driver=none",
    "--no-healthcheck",
    "--rm",
    "--attach=stdout",
    "--attach=stderr",
    "--pull=never",
];

pub struct Peer {
    folder: tempfile::TempDir,
}

impl Peer {
    /// Logged in.
    pub async fn new(registry: &RegistryServer) -> Result<Self> {
        let peer = Self { folder: tempfile::tempdir()? };
        std::fs::write(peer.folder().join("inputs.json"), INPUTS)?;
        let RegistryServer { host, username, password } = registry;
        peer.docker(&["login", "-u", username, "-p", password, host]).await?;
        Ok(peer)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn run(&self, image: &str) -> Result<Duration> {
        let inputs = self.folder().join("inputs.json");
        let inputs = format!("--volume={}:/tmp/inputs.json:ro", inputs.display());
        let mut arguments = vec!["run"];
        arguments.extend(FLAGS);
        arguments.extend([inputs.as_str(), image]);
        let began = Instant::now();
        self.docker(&arguments).await?;
        Ok(began.elapsed())
    }

    pub async fn pull(&self, image: &str) -> Result<Duration> {
        let began = Instant::now();
        self.docker(&["pull", "-q", image]).await?;
        Ok(began.elapsed())
    }

    pub async fn remove(&self, image: &str) {
        let _ = self.docker(&["rmi", image]).await;
    }

    pub async fn docker(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new("docker")
            .args(arguments)
            .env("DOCKER_CONFIG", self.folder())
            .output()
            .await?;
        let problem = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "docker {}: {problem}", arguments[0]);
        Ok(())
    }
}
