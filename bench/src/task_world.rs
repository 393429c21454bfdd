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

use crate::task_peer::{INPUTS, Peer};

const PATIENCE: Duration = Duration::from_secs(300);
pub struct World {
    pub system: System,
    producer: jetstream::Context,
    pub peer: Peer,
}

impl World {
    pub async fn start() -> Result<Self> {
        let infra = Infra::shared().await;
        let peer = Peer::new(&infra.primary()).await?;
        let pool = peer.folder().join("pool");
        let more = format!("[worker.pool]\ndirectory = {pool:?}\n");
        let system = System::start_with(infra, &more).await?;
        let client = async_nats::ConnectOptions::with_user_and_password(
            system.nats.user.clone(),
            system.nats.password.clone(),
        )
        .connect(&system.nats.url)
        .await?;
        Ok(Self { system, producer: jetstream::new(client), peer })
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
