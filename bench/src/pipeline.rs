//! A code edit with unchanged requirements: `build.requested` → `push.done`, beside `docker build` and `docker push`
//! of the same files to the same registry. In turn, so that both meet the same machine.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream;
use futures::StreamExt as _;
use mecapy_bus::Live;
use mecapy_e2e::System;
use mecapy_proto::v1::{BuildRequested, build_requested::Source};
use mecapy_proto::{BuildId, Event as _, FunctionId};
use mecapy_testkit::{Infra, RegistryServer};
use tokio::process::Command;

use crate::report::{Report, percentile};

const RUNS: usize = 30;
const PATIENCE: Duration = Duration::from_secs(300);
const REQUIREMENTS: &str = "requests\n";

fn code(edit: usize) -> String {
    format!(
        "import json\nimport requests\nwith open('/output.json', 'w') as file:\n    json.dump({edit}, file)\n"
    )
}

pub async fn measure() -> Result<Report> {
    let system = System::start(Infra::shared().await).await?;
    let owner = system.owner.parse()?;
    let function = {
        let mut conn = system.pool.acquire().await?;
        mecapy_store::functions::ensure(&mut conn, &owner, "bench").await?
    };
    let client = async_nats::ConnectOptions::with_user_and_password(
        system.nats.user.clone(),
        system.nats.password.clone(),
    )
    .connect(&system.nats.url)
    .await?;
    let producer = jetstream::new(client);
    let docker = Docker::new(&system.primary).await?;

    // Once, for the dependencies: what an edit finds.
    ours(&system, &producer, function, 0).await?;
    docker.build_and_push(0).await?;

    let (mut our_times, mut docker_times) = (Vec::new(), Vec::new());
    for edit in 1..=RUNS {
        our_times.push(ours(&system, &producer, function, edit).await?);
        docker_times.push(docker.build_and_push(edit).await?);
    }
    docker.remove().await;

    let mut report = Report::new("pipeline", RUNS);
    report.durations("ours", &our_times);
    report.durations("docker", &docker_times);
    let ratio =
        percentile(&our_times, 50).as_secs_f64() / percentile(&docker_times, 50).as_secs_f64();
    report.measure("ratio_docker", ratio);
    Ok(report)
}

async fn ours(
    system: &System,
    producer: &jetstream::Context,
    function: FunctionId,
    edit: usize,
) -> Result<Duration> {
    let build = BuildId::new();
    let request = BuildRequested {
        build_id: build.to_string(),
        function_id: function.get(),
        owner: system.owner.clone(),
        python_version: "3.11".into(),
        base_variant: "slim".into(),
        requirements: REQUIREMENTS.into(),
        source: Some(Source::Code(code(edit))),
        ..Default::default()
    };
    let mut events = Box::pin(Live::new(system.bus.clone()).events().await?);
    system.bus.flush().await;
    let began = Instant::now();
    producer.publish(BuildRequested::SUBJECT, serde_json::to_vec(&request)?.into()).await?.await?;
    loop {
        let next = tokio::time::timeout(PATIENCE, events.next()).await.context("no push.done")?;
        let (subject, entity) = next.context("NATS is gone")?;
        if entity != request.build_id {
            continue;
        }
        match subject.as_str() {
            "push.done" => return Ok(began.elapsed()),
            "build.failed" | "push.failed" => bail!("{subject}: {:?}", reason(system, build).await),
            _ => {}
        }
    }
}

async fn reason(system: &System, build: BuildId) -> Option<String> {
    let build = mecapy_store::builds::get(&system.pool, build).await.ok()??;
    build.failure().map(|failure| format!("{}: {}", failure.code, failure.message))
}

/// The peer, as its users run it: the requirements in a layer of their own, so that an edit finds it in the cache.
struct Docker {
    folder: tempfile::TempDir,
    config: tempfile::TempDir,
    image: String,
}

impl Docker {
    async fn new(registry: &RegistryServer) -> Result<Self> {
        let docker = Self {
            folder: tempfile::tempdir()?,
            config: tempfile::tempdir()?,
            image: format!("{}/peer/function", registry.host),
        };
        let write = |name: &str, text: &str| std::fs::write(docker.folder.path().join(name), text);
        write("requirements.txt", REQUIREMENTS)?;
        let mut certificates = String::new();
        if let Some(bundle) =
            std::env::var_os("SSL_CERT_FILE").filter(|path| Path::new(path).is_file())
        {
            std::fs::copy(bundle, docker.folder.path().join("ca.crt"))?;
            certificates = "COPY ca.crt /tmp/ca.crt\nARG SSL_CERT_FILE=/tmp/ca.crt\n".to_owned();
        }
        write(
            "Dockerfile",
            &format!(
                "FROM mecapy/base/python:3.11-slim\nUSER root\n{certificates}COPY requirements.txt /tmp/\n\
                 RUN uv pip install --no-cache --only-binary :all: -r /tmp/requirements.txt\n\
                 COPY user_function.py /app/\nUSER mecapy\nCMD [\"python\", \"user_function.py\"]\n"
            ),
        )?;
        docker
            .run(&["login", "-u", &registry.username, "-p", &registry.password, &registry.host])
            .await?;
        Ok(docker)
    }

    async fn build_and_push(&self, edit: usize) -> Result<Duration> {
        std::fs::write(self.folder.path().join("user_function.py"), code(edit))?;
        let tag = format!("{}:v{edit}", self.image);
        let folder = self.folder.path().to_string_lossy().into_owned();
        let began = Instant::now();
        self.run(&["build", "-q", "-t", &tag, &folder]).await?;
        self.run(&["push", "-q", &tag]).await?;
        Ok(began.elapsed())
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let done = Command::new("docker")
            .args(arguments)
            .env("DOCKER_CONFIG", self.config.path())
            .output()
            .await?;
        let problem = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "docker {}: {problem}", arguments[0]);
        Ok(())
    }

    async fn remove(&self) {
        for edit in 0..=RUNS {
            let _ = self.run(&["rmi", &format!("{}:v{edit}", self.image)]).await;
        }
    }
}
