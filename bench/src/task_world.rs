//! What the benchmarks of tasks start from: a whole system, functions in it, and `docker run` as their peer.

use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt as _};
use mecapy_bus::{Bus, Live};
use mecapy_e2e::System;
use mecapy_proto::v1::{TaskDispatch, task_dispatch::Inputs};
use mecapy_proto::{Event, TaskId};
use mecapy_service::Secret;
use mecapy_store::tasks::Task;
use mecapy_testkit::Infra;
use serde::Serialize;
use serde_json::Value;

use crate::direct::direct;
use crate::task_peer::{INPUTS, Peer};

pub const PATIENCE: Duration = Duration::from_secs(300);

/// Subjects, and what they are about.
pub type Events = Pin<Box<dyn Stream<Item = (String, String)> + Send>>;

/// One task, timed.
pub struct Timed {
    pub took: Duration,
    pub sent_at: DateTime<Utc>,
    pub done_at: DateTime<Utc>,
    pub task: Task,
}

pub struct World {
    pub system: System,
    bus: Bus,
    producer: jetstream::Context,
    pub peer: Peer,
}

impl World {
    /// Its services reach NATS, PostgreSQL and S3 without Docker's proxy.
    pub async fn start() -> Result<Self> {
        let infra = Infra::shared().await;
        let peer = Peer::new(&infra.primary()).await?;
        let pool = peer.folder().join("pool");
        let more = format!("[worker.pool]\ndirectory = {pool:?}\n");
        let mut system = System::set_up(infra, &more).await?;
        let nats = direct(&system.nats.url, 4222).await?;
        system.environment = [
            ("MECAPY_NATS__URL", nats.clone()),
            ("MECAPY_POSTGRES__URL", direct(&system.postgres, 5432).await?),
            ("MECAPY_S3__ENDPOINT", direct(&system.s3.endpoint, 9000).await?),
        ]
        .into();
        system.start_all().await?;
        let (user, password) = (system.nats.user.clone(), system.nats.password.clone());
        let options = mecapy_bus::Options {
            url: nats.clone(),
            user: Some(user.clone()),
            password: Some(Secret::new(password.clone())),
        };
        let bus = Bus::connect_now("bench", &options).await?;
        let client = async_nats::ConnectOptions::with_user_and_password(user, password)
            .connect(nats)
            .await?;
        Ok(Self { system, bus, producer: jetstream::new(client), peer })
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
        Ok(self.run_timed(function).await?.took)
    }

    /// With the times of its row, which the database writes by the clock of this machine.
    pub async fn run_timed(&self, function: &Value) -> Result<Timed> {
        let id = TaskId::new();
        let dispatch = dispatch(id, function)?;
        let mut events = self.events().await?;
        let (began, sent_at) = (Instant::now(), Utc::now());
        self.send(&dispatch).await?;
        until_done(id, &mut events).await?;
        let (took, done_at) = (began.elapsed(), Utc::now());
        let task = mecapy_store::tasks::get(&self.system.pool, id).await?.context("no task")?;
        ensure!(task.state == mecapy_store::TaskState::Succeeded, "{task:?}");
        Ok(Timed { took, sent_at, done_at, task })
    }

    pub fn live(&self) -> Live {
        Live::new(self.bus.clone())
    }

    /// What happens from now on.
    pub async fn events(&self) -> Result<Events> {
        let events = Box::pin(self.live().events().await?);
        self.bus.flush().await;
        Ok(events)
    }

    pub async fn send<E: Event + Serialize>(&self, event: &E) -> Result<()> {
        let body = serde_json::to_vec(event)?;
        self.producer.publish(E::SUBJECT, body.into()).await?.await?;
        Ok(())
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

/// A task of a function, to be sent.
pub fn dispatch(id: TaskId, function: &Value) -> Result<TaskDispatch> {
    Ok(TaskDispatch {
        task_id: id.to_string(),
        function_id: function["function_id"].as_i64().context("no function_id")?,
        inputs: Some(Inputs::InputsJson(INPUTS.to_owned())),
        ..TaskDispatch::default()
    })
}

pub async fn until_done(id: TaskId, events: &mut Events) -> Result<()> {
    let id = id.to_string();
    loop {
        let next = tokio::time::timeout(PATIENCE, events.next()).await;
        let (subject, entity) = next.context("no task.done")?.context("NATS is gone")?;
        if subject == "task.done" && entity == id {
            return Ok(());
        }
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
