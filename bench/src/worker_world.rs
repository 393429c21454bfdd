//! What the benchmarks of the worker alone start from: servers, published functions, and workers as processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{Stream, StreamExt as _};
use mecapy_bus::Live;
use mecapy_proto::v1::{TaskDispatch, task_dispatch::Inputs};
use mecapy_proto::{FunctionId, TaskId};
use mecapy_registry::{Base, ConfigPatch, Digest, LayerFile, TarLayer, append_layer};
use mecapy_store::scans::NewScan;
use mecapy_store::tasks::{self, Task};
use mecapy_store::{builds, scans};
use mecapy_testkit::unique;
use tokio::process::{Child, Command};

use crate::mirror_world::{self, append, noise};
use crate::task_peer::{INPUTS, Peer};

const PATIENCE: Duration = Duration::from_secs(300);
const CODE: &str = "import json\ninputs = json.load(open('/inputs.json'))\n\
    json.dump({'double': inputs['n'] * 2}, open('/output.json', 'w'))\n";

type Events = Pin<Box<dyn Stream<Item = (String, String)> + Send>>;

pub struct World {
    pub servers: mirror_world::World,
    pub peer: Peer,
    events: Events,
}

pub struct Function {
    pub id: FunctionId,
    pub repository: String,
    pub digest: Digest,
    /// By its name on the primary.
    pub image: String,
    pub size_bytes: u64,
}

/// A worker as a process. Dropping it removes it and its containers.
pub struct Worker {
    name: String,
    admin: String,
    pub process: Child,
}

impl World {
    pub async fn start() -> Result<Self> {
        let servers = mirror_world::World::empty().await?;
        let peer = Peer::new(&servers.system.primary).await?;
        let events = Box::pin(Live::new(servers.system.bus.clone()).events().await?);
        servers.system.bus.flush().await;
        Ok(Self { servers, peer, events })
    }

    /// A dependency image of the base and so many bytes.
    pub async fn dependencies(&self, bytes: usize) -> Result<Base> {
        let (repository, tag) = ("mecapy/staging/deps", unique("set"));
        let (base, registry) = (self.servers.base().await?, &self.servers.primary);
        append(registry, &base, repository, &tag, "opt/dependencies", noise(bytes)).await?;
        let manifest = registry.manifest(repository, &tag).await?;
        Ok(Base { repository: repository.to_owned(), manifest })
    }

    /// A function that is published and scanned. With another environment its dependencies are others.
    pub async fn function(
        &mut self,
        below: &Base,
        env: BTreeMap<String, String>,
    ) -> Result<Function> {
        self.function_that_asks(below, env, "").await
    }

    /// A function whose code begins with a line that asks for something.
    pub async fn function_that_asks(
        &mut self,
        below: &Base,
        env: BTreeMap<String, String>,
        line: &str,
    ) -> Result<Function> {
        let (id, repository) = self.servers.function().await?;
        let tag = "v1-00000000";
        let code = format!("{line}\n{CODE}# {}\n", unique("code"));
        let file =
            LayerFile { path: "app/user_function.py".to_owned(), mode: 0o444, bytes: code.into() };
        let labels = [("org.mecapy.function.id".to_owned(), id.to_string())].into();
        let cmd = Some(vec!["python".to_owned(), "user_function.py".to_owned()]);
        let patch = ConfigPatch { labels, cmd, env, ..ConfigPatch::default() };
        let registry = &self.servers.primary;
        let layer = TarLayer::from_files([file])?;
        let made = append_layer(registry, below, &repository, tag, layer, &patch).await?;
        let image = format!("{}/{repository}:{tag}@{}", registry.host(), made.digest);
        let dependencies = below.manifest.digest.to_string();
        let (digest, size_bytes) = (made.digest, made.size_bytes);
        self.servers.record(id, &repository, tag, digest, &dependencies, size_bytes).await?;
        let build = builds::newest(&self.servers.system.pool, id).await?.context("no build")?;
        let scan = NewScan {
            digest: digest.to_string(),
            engine: "bench".to_owned(),
            engine_version: "1".to_owned(),
            database_version: "1".to_owned(),
            database_partial: false,
            passed: true,
            critical: 0,
            high: 0,
            medium: 0,
            low: 0,
            unknown: 0,
            findings: serde_json::Value::Array(Vec::new()),
            report_key: String::new(),
            sbom_key: String::new(),
            duration_ms: 1,
        };
        let mut conn = self.servers.system.pool.acquire().await?;
        scans::insert(&mut conn, build.id(), &scan).await?;
        Ok(Function { id, repository, digest, image, size_bytes })
    }

    /// A worker, ready, with its configuration changed by variables.
    pub async fn worker(&self, more: &[(&str, String)]) -> Result<Worker> {
        let here = std::env::current_exe()?;
        let program: PathBuf = here.with_file_name("mecapy-worker");
        ensure!(program.is_file(), "mecapy-worker is not built: run `cargo build --workspace`");
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let (name, admin) = (unique("bench"), format!("127.0.0.1:{port}"));
        let process = Command::new(program)
            .arg("--config")
            .arg(self.servers.system.config())
            .envs(mirror_world::MALLOC)
            .env("MECAPY_ADMIN__LISTEN", &admin)
            .env("MECAPY_WORKER__NAME", &name)
            .env("MECAPY_WORKER__POOL__DIRECTORY", self.peer.folder().join("pool"))
            .envs(more.iter().map(|(key, value)| (*key, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let worker = Worker { name, admin, process };
        let began = Instant::now();
        while worker.ask("/readyz").await.is_err() {
            ensure!(began.elapsed() < PATIENCE, "the worker does not get ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(worker)
    }

    pub async fn send(&self, function: &Function) -> Result<TaskId> {
        let id = TaskId::new();
        let dispatch = TaskDispatch {
            task_id: id.to_string(),
            function_id: function.id.get(),
            inputs: Some(Inputs::InputsJson(INPUTS.to_owned())),
            ..TaskDispatch::default()
        };
        self.servers.system.bus.publish(&dispatch).await?;
        Ok(id)
    }

    /// The next task that ends.
    pub async fn next_end(&mut self) -> Result<TaskId> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.events.next()).await;
            let (subject, entity) = next.context("no task.done")?.context("NATS is gone")?;
            if subject == "task.done" {
                return Ok(entity.parse()?);
            }
        }
    }

    /// `task.dispatch` → `task.done`, one alone.
    pub async fn run(&mut self, function: &Function) -> Result<(Duration, Task)> {
        let began = Instant::now();
        let id = self.send(function).await?;
        while self.next_end().await? != id {}
        let took = began.elapsed();
        let task = tasks::get(&self.servers.system.pool, id).await?.context("no task")?;
        ensure!(task.state == mecapy_store::TaskState::Succeeded, "{task:?}");
        Ok((took, task))
    }

    /// Waits until the engine has no such image.
    pub async fn until_gone(&self, image: &str) -> Result<()> {
        let began = Instant::now();
        while self.peer.docker(&["image", "inspect", image]).await.is_ok() {
            ensure!(began.elapsed() < PATIENCE, "{image} is not put out");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Worker {
    pub async fn ask(&self, path: &str) -> Result<String> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let answer = client.get(format!("http://{}{path}", self.admin)).send().await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    pub async fn until_it_has_no_container(&self) -> Result<()> {
        let label = format!("label=org.mecapy.worker={}", self.name);
        let began = Instant::now();
        loop {
            let all = ["ps", "--all", "--quiet", "--filter", label.as_str()];
            let listed = Command::new("docker").args(all).output().await?;
            if listed.status.success() && listed.stdout.is_empty() {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "its containers do not go");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The sum of a metric's values whose line has `label` in it.
    pub async fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let metrics = self.ask("/metrics").await?;
        let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.start_kill();
        let label = format!("label=org.mecapy.worker={}", self.name);
        let remove =
            format!("docker ps --all --quiet --filter {label} | xargs -r docker rm --force");
        let _ = std::process::Command::new("sh").args(["-c", &remove]).output();
    }
}
