//! What the benchmarks of builds start from: a whole system, and a function whose versions are asked for by events.

use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream;
use futures::{Stream, StreamExt as _};
use mecapy_bus::Live;
use mecapy_e2e::System;
use mecapy_proto::v1::{BuildRequested, build_requested::Source};
use mecapy_proto::{BuildId, Event as _, FunctionId};
use mecapy_testkit::Infra;

const PATIENCE: Duration = Duration::from_secs(300);
/// How a version ends that is well.
const READY: &str = "push.done";

pub struct World {
    pub system: System,
    producer: jetstream::Context,
    function: FunctionId,
}

/// How long after its request a version was there.
pub struct Times {
    /// Built, and in staging.
    pub built: Duration,
    /// Scanned and published.
    pub published: Duration,
}

impl World {
    pub async fn start() -> Result<Self> {
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
        Ok(Self { system, producer: jetstream::new(client), function })
    }

    /// Asks for a version and waits until it is published.
    pub async fn version(&self, code: &str, requirements: &str) -> Result<Times> {
        let build = BuildId::new();
        let request = BuildRequested {
            build_id: build.to_string(),
            function_id: self.function.get(),
            owner: self.system.owner.clone(),
            python_version: "3.11".into(),
            base_variant: "slim".into(),
            requirements: requirements.into(),
            source: Some(Source::Code(code.into())),
            ..Default::default()
        };
        let mut events = Box::pin(Live::new(self.system.bus.clone()).events().await?);
        self.system.bus.flush().await;
        let began = Instant::now();
        let body = serde_json::to_vec(&request)?;
        self.producer.publish(BuildRequested::SUBJECT, body.into()).await?.await?;
        self.until(&mut events, build, "build.done").await?;
        let built = began.elapsed();
        self.until(&mut events, build, READY).await?;
        Ok(Times { built, published: began.elapsed() })
    }

    async fn until(
        &self,
        events: &mut Pin<Box<impl Stream<Item = (String, String)>>>,
        build: BuildId,
        end: &str,
    ) -> Result<()> {
        loop {
            let next = tokio::time::timeout(PATIENCE, events.next())
                .await
                .with_context(|| format!("no {end}"))?;
            let (subject, entity) = next.context("NATS is gone")?;
            if entity != build.to_string() {
                continue;
            }
            match subject.as_str() {
                subject if subject == end => return Ok(()),
                "build.failed" | "push.failed" => {
                    bail!("{subject}: {:?}", self.reason(build).await)
                }
                _ => {}
            }
        }
    }

    async fn reason(&self, build: BuildId) -> Option<String> {
        let build = mecapy_store::builds::get(&self.system.pool, build).await.ok()??;
        build.failure().map(|failure| format!("{}: {}", failure.code, failure.message))
    }
}
