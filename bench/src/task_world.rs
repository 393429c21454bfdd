//! What the benchmarks of tasks start from: a whole system, functions in it, and `docker run` as their peer.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use futures::StreamExt as _;
use mecapy_bus::Live;
use mecapy_e2e::System;
use mecapy_proto::v1::{TaskDispatch, task_dispatch::Inputs};
use mecapy_proto::{Event as _, TaskId};
use mecapy_testkit::Infra;
use serde_json::Value;
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(300);
const INPUTS: &str = r#"{"n": 21}"#;
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

pub struct World {
    pub system: System,
    producer: jetstream::Context,
    folder: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let pool = folder.path().join("pool");
        let more = format!("[worker.pool]\ndirectory = {pool:?}\n");
        let system = System::start_with(Infra::shared().await, &more).await?;
        let client = async_nats::ConnectOptions::with_user_and_password(
            system.nats.user.clone(),
            system.nats.password.clone(),
        )
        .connect(&system.nats.url)
        .await?;
        std::fs::write(folder.path().join("inputs.json"), INPUTS)?;
        let world = Self { system, producer: jetstream::new(client), folder };
        let primary = &world.system.primary;
        world
            .docker(&["login", "-u", &primary.username, "-p", &primary.password, &primary.host])
            .await?;
        Ok(world)
    }

    /// A function that is ready.
    pub async fn function(&self, name: &str, code: &str, requirements: &str) -> Result<Value> {
        let submitted = self.system.api.submit(name, code, requirements).await?;
        let ready = self.system.api.ended(&submitted, PATIENCE).await?;
        ensure!(ready["status"] == "ready", "{ready}");
        Ok(ready)
    }

    /// `task.dispatch` → `task.done`.
    pub async fn run(&self, function: &Value) -> Result<Duration> {
        let id = TaskId::new();
        let dispatch = TaskDispatch {
            task_id: id.to_string(),
            function_id: function["function_id"].as_i64().context("no function_id")?,
            inputs: Some(Inputs::InputsJson(INPUTS.to_owned())),
            ..TaskDispatch::default()
        };
        let mut events = Box::pin(Live::new(self.system.bus.clone()).events().await?);
        self.system.bus.flush().await;
        let began = Instant::now();
        let body = serde_json::to_vec(&dispatch)?;
        self.producer.publish(TaskDispatch::SUBJECT, body.into()).await?.await?;
        loop {
            let next = tokio::time::timeout(PATIENCE, events.next()).await;
            let (subject, entity) = next.context("no task.done")?.context("NATS is gone")?;
            if subject == "task.done" && entity == dispatch.task_id {
                break;
            }
        }
        let took = began.elapsed();
        let task = mecapy_store::tasks::get(&self.system.pool, id).await?.context("no task")?;
        ensure!(task.state == mecapy_store::TaskState::Succeeded, "{task:?}");
        Ok(took)
    }

    /// How many tasks the worker began in containers that waited.
    pub async fn parked(&self) -> Result<f64> {
        let metrics = self.system.admin(mecapy_e2e::Service::Worker, "/metrics").await?;
        let line = metrics.lines().find(|line| {
            line.starts_with("mecapy_task_starts_total{") && line.contains("path=\"parked\"")
        });
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default())
    }

    /// The peer: the function's image, run with the same flags and inputs.
    pub async fn docker_run(&self, image: &str) -> Result<Duration> {
        let inputs = self.folder.path().join("inputs.json");
        let inputs = format!("--volume={}:/tmp/inputs.json:ro", inputs.display());
        let mut arguments = vec!["run"];
        arguments.extend(FLAGS);
        arguments.extend([inputs.as_str(), image]);
        let began = Instant::now();
        self.docker(&arguments).await?;
        Ok(began.elapsed())
    }

    pub async fn docker_pull(&self, image: &str) -> Result<Duration> {
        let began = Instant::now();
        self.docker(&["pull", "-q", image]).await?;
        Ok(began.elapsed())
    }

    pub async fn docker(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new("docker")
            .args(arguments)
            .env("DOCKER_CONFIG", self.folder.path())
            .output()
            .await?;
        let problem = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "docker {}: {problem}", arguments[0]);
        Ok(())
    }
}

pub fn image(function: &Value) -> Result<&str> {
    function["docker_image"].as_str().context("no docker_image")
}

/// With requirements or without, the same work.
pub fn code(number: usize, imports: &str) -> String {
    format!(
        "import json\n{imports}\ninputs = json.load(open('/inputs.json'))\n\
         json.dump({{'double': inputs['n'] * 2, 'number': {number}}}, open('/output.json', 'w'))\n"
    )
}
