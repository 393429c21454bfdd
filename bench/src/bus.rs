//! Events per second: publish → handler with inbox and outbox → publish, from a stream that is full already.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use futures::StreamExt as _;
use mecapy_bus::topology::{self, Setup};
use mecapy_bus::{
    Bus, Consumer, ConsumerOptions, Delivery, Handler, HandlerError, Options, Outbox, Outcome,
    Outgoing,
};
use mecapy_proto::v1::{BuildDone, ScanDone};
use mecapy_service::{Health, Secret};
use mecapy_testkit::{Infra, Server};
use tokio_util::sync::CancellationToken;

use crate::direct::direct;
use crate::report::Report;

pub const EVENTS: usize = 10_000;
const CONCURRENCY: usize = 64;
const PATIENCE: Duration = Duration::from_secs(120);

/// The smallest handler there is: what is measured is the chain.
struct Forward;

impl Handler<BuildDone> for Forward {
    async fn handle(&self, event: BuildDone, _: &Delivery) -> Result<Outcome, HandlerError> {
        let scan =
            ScanDone { build_id: event.build_id, digest: event.digest, ..Default::default() };
        Ok(Outcome::commit(move |_| Box::pin(async move { Ok(Outgoing::event(&scan)) })))
    }
}

pub async fn measure() -> Result<Report> {
    mecapy_service::install_tls();
    let infra = Infra::start(&[Server::Nats, Server::Postgres]).await;
    let mut report = Report::new("bus", EVENTS);
    for (replicas, name) in [(1, "ours_events_per_s"), (3, "ours_3_replicas_events_per_s")] {
        let took = run(&Target::of(&infra).await?, replicas).await?;
        report.measure(name, EVENTS as f64 / took.as_secs_f64());
    }
    Ok(report)
}

/// An account and a database that nobody has used.
pub struct Target {
    pub nats: Options,
    pub postgres: String,
}

impl Target {
    pub async fn of(infra: &Infra) -> Result<Self> {
        let account = infra.nats().await;
        Ok(Self {
            nats: Options {
                url: direct(&account.url, 4222).await?,
                user: Some(account.user),
                password: Some(Secret::new(account.password)),
            },
            postgres: direct(&infra.postgres().await, 5432).await?,
        })
    }
}

/// How long so many replicas take for all events.
pub async fn run(target: &Target, replicas: usize) -> Result<Duration> {
    let options = target.nats.clone();
    let bus = Bus::connect_now("bench", &options).await?;
    topology::setup(&bus, &Setup::default()).await?;
    let postgres = mecapy_store::Options {
        url: target.postgres.clone(),
        max_connections: 32,
        ..Default::default()
    };
    mecapy_store::migrate(&mecapy_store::connect(&postgres).await?).await?;

    let user = options.user.clone().unwrap_or_default();
    let password = options.password.as_ref().map(|password| password.expose().to_owned());
    let client =
        async_nats::ConnectOptions::with_user_and_password(user, password.unwrap_or_default())
            .connect(options.url.clone())
            .await?;
    fill(&jetstream::new(client.clone())).await?;

    let mut sent = client.subscribe("scan.done").await?;
    client.flush().await?;
    let shutdown = CancellationToken::new();
    let mut running = Vec::new();
    let began = Instant::now();
    for _ in 0..replicas {
        let bus = Bus::connect_now("bench", &options).await?;
        let pool = mecapy_store::connect(&postgres).await?;
        let outbox = Outbox::start(bus, pool, "bench", shutdown.clone());
        let options = ConsumerOptions { durable: topology::SCANNER, concurrency: CONCURRENCY };
        let consumer =
            Consumer::new(options, Forward, outbox, Health::default().condition("bench"));
        running.push(tokio::spawn(
            consumer.run::<BuildDone>(shutdown.clone(), CancellationToken::new()),
        ));
    }
    for _ in 0..EVENTS {
        tokio::time::timeout(PATIENCE, sent.next())
            .await
            .context("no event came")?
            .context("disconnected")?;
    }
    let took = began.elapsed();
    shutdown.cancel();
    for replica in running {
        replica.await?;
    }
    Ok(took)
}

/// Events as the builder writes them, in size.
async fn fill(jetstream: &jetstream::Context) -> Result<()> {
    use mecapy_proto::Event as _;
    let mut acks = Vec::new();
    for number in 0..EVENTS {
        let event = BuildDone {
            base: String::new(),
            build_id: format!("00000000-0000-7000-8000-{number:012}"),
            function_id: 1,
            image: format!(
                "registry.example/mecapy/staging/user-a-func-1@sha256:{}",
                "0".repeat(64)
            ),
            digest: format!("sha256:{}", "0".repeat(64)),
            ..Default::default()
        };
        acks.push(jetstream.publish(BuildDone::SUBJECT, serde_json::to_vec(&event)?.into()).await?);
        if acks.len() == 500 {
            for ack in acks.drain(..) {
                ack.await?;
            }
        }
    }
    for ack in acks {
        ack.await?;
    }
    Ok(())
}
