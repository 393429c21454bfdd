//! Streams, consumers and buckets: made by `mecapy setup` alone, which can be run again.
//!
//! Events are kept by age (Limits) with one durable consumer a service, so that none is lost while a service is
//! down, and duplicates are known after a restart of the server too. Tasks are a work queue that refuses what it
//! can't hold: back pressure for producers.

use std::time::Duration;

use async_nats::jetstream::{self, consumer, kv, stream};
use mecapy_proto::{Event, v1};
use mecapy_service::chain;
use tokio_util::sync::CancellationToken;

use crate::{Bus, Error, dead_letters, metric_definitions as metrics};

pub const PIPELINE: &str = "PIPELINE";
pub const OPS: &str = "OPS";
pub const TASKS: &str = "TASKS";
pub const DEAD_LETTERS: &str = "DLQ";
pub const TASK_RESULTS: &str = "task-results";
pub const WORKERS: &str = "workers";
pub const REPLICAS: &str = "replicas";
pub const DRAINS: &str = "drains";

/// A message unacknowledged for this long is delivered again: three missed signs of life.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Deliveries before a message that keeps failing becomes a dead letter.
pub const MAX_DELIVERIES: u64 = 20;

/// A worker that says nothing for so long is not there any more: three missed signs of life.
pub const WORKER_SILENCE: Duration = Duration::from_secs(15);
/// The same of a replica of any service.
pub const SILENCE: Duration = Duration::from_secs(15);

/// How often the backlog is looked at for its metrics.
const LOOK_EVERY: Duration = Duration::from_secs(10);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longer than a relay takes to send again what a dead process had sent already.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// A durable consumer: one a service, shared by its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    pub name: &'static str,
    pub stream: &'static str,
    pub subject: &'static str,
}

pub const BUILDER: Durable =
    Durable { name: "builder", stream: PIPELINE, subject: v1::BuildRequested::SUBJECT };
pub const SCANNER: Durable =
    Durable { name: "scanner", stream: PIPELINE, subject: v1::BuildDone::SUBJECT };
pub const PUBLISHER: Durable =
    Durable { name: "publisher", stream: PIPELINE, subject: v1::ScanDone::SUBJECT };
pub const WORKER: Durable =
    Durable { name: "worker", stream: TASKS, subject: v1::TaskDispatch::SUBJECT };

pub const BASE_MATRIX: Durable =
    Durable { name: "base-matrix", stream: OPS, subject: v1::BaseRequested::SUBJECT };
pub const BASE_BUILDER: Durable =
    Durable { name: "base-builder", stream: OPS, subject: v1::BaseBuild::SUBJECT };
pub const MIRROR: Durable =
    Durable { name: "mirror", stream: OPS, subject: v1::MirrorRequested::SUBJECT };
pub const MIRROR_IMAGE: Durable =
    Durable { name: "mirror-image", stream: OPS, subject: v1::MirrorImage::SUBJECT };
pub const MIRROR_PUBLISHED: Durable =
    Durable { name: "mirror-published", stream: PIPELINE, subject: v1::PushDone::SUBJECT };
pub const MIRROR_REPORT: Durable =
    Durable { name: "mirror-report", stream: OPS, subject: v1::MirrorDone::SUBJECT };
pub const JANITOR: Durable =
    Durable { name: "janitor", stream: OPS, subject: v1::CleanupRequested::SUBJECT };

/// What owners are told of.
pub const NOTIFY_READY: Durable =
    Durable { name: "notify-ready", stream: PIPELINE, subject: v1::PushDone::SUBJECT };
pub const NOTIFY_SCANNED: Durable =
    Durable { name: "notify-scanned", stream: PIPELINE, subject: v1::ScanDone::SUBJECT };
pub const NOTIFY_BUILD_FAILED: Durable =
    Durable { name: "notify-build-failed", stream: PIPELINE, subject: v1::BuildFailed::SUBJECT };
pub const NOTIFY_PUSH_FAILED: Durable =
    Durable { name: "notify-push-failed", stream: PIPELINE, subject: v1::PushFailed::SUBJECT };
pub const NOTIFY_REVOKED: Durable =
    Durable { name: "notify-revoked", stream: PIPELINE, subject: v1::ScanRevoked::SUBJECT };
pub const NOTIFY_TASK_ENDED: Durable =
    Durable { name: "notify-task-ended", stream: PIPELINE, subject: v1::TaskDone::SUBJECT };
/// Dead letters of webhooks, replayed.
pub const WEBHOOK_RESEND: Durable =
    Durable { name: "webhook-resend", stream: OPS, subject: v1::WebhookResend::SUBJECT };

pub const DURABLES: &[Durable] = &[
    BUILDER,
    SCANNER,
    PUBLISHER,
    WORKER,
    BASE_MATRIX,
    BASE_BUILDER,
    MIRROR,
    MIRROR_IMAGE,
    MIRROR_PUBLISHED,
    MIRROR_REPORT,
    JANITOR,
    NOTIFY_READY,
    NOTIFY_SCANNED,
    NOTIFY_BUILD_FAILED,
    NOTIFY_PUSH_FAILED,
    NOTIFY_REVOKED,
    NOTIFY_TASK_ENDED,
    WEBHOOK_RESEND,
];

/// What setup may be told.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Copies of each stream, in a cluster of at least as many servers.
    pub replicas: usize,
    /// Tasks that may wait; more are refused.
    pub max_queued_tasks: i64,
}

impl Default for Setup {
    fn default() -> Self {
        Self { replicas: 1, max_queued_tasks: 100_000 }
    }
}

/// Makes or updates everything. Says what it did.
pub async fn setup(bus: &Bus, setup: &Setup) -> Result<Vec<String>, Error> {
    let mut done = Vec::new();
    for config in streams(setup) {
        let name = config.name.clone();
        bus.jetstream
            .create_or_update_stream(config)
            .await
            .map_err(|error| Error::jetstream(format!("stream {name}"), error))?;
        done.push(format!("stream {name}"));
    }
    for durable in DURABLES {
        bus.jetstream
            .create_consumer_on_stream(consumer_config(*durable), durable.stream)
            .await
            .map_err(|error| Error::jetstream(format!("consumer {}", durable.name), error))?;
        done.push(format!("consumer {} of {}", durable.name, durable.stream));
    }
    for config in buckets(setup) {
        let name = config.bucket.clone();
        bus.jetstream
            .create_or_update_key_value(config)
            .await
            .map_err(|error| Error::jetstream(format!("bucket {name}"), error))?;
        done.push(format!("bucket {name}"));
    }
    Ok(done)
}

fn buckets(setup: &Setup) -> [kv::Config; 4] {
    [
        kv::Config {
            bucket: TASK_RESULTS.to_owned(),
            description: "Results of tasks, for an hour".to_owned(),
            max_age: Duration::from_secs(60 * 60),
            num_replicas: setup.replicas,
            ..Default::default()
        },
        kv::Config {
            bucket: WORKERS.to_owned(),
            description: "Workers that live, and what they have".to_owned(),
            max_age: WORKER_SILENCE,
            // Said again every few seconds: nothing that a restart of the server must keep.
            storage: stream::StorageType::Memory,
            num_replicas: setup.replicas,
            ..Default::default()
        },
        kv::Config {
            bucket: REPLICAS.to_owned(),
            description: "Replicas of services that live, and what they wait for".to_owned(),
            max_age: SILENCE,
            storage: stream::StorageType::Memory,
            num_replicas: setup.replicas,
            ..Default::default()
        },
        // Until it is lifted: no age, and a restart of the server keeps it.
        kv::Config {
            bucket: DRAINS.to_owned(),
            description: "Workers that are to take no tasks".to_owned(),
            num_replicas: setup.replicas,
            ..Default::default()
        },
    ]
}

fn streams(setup: &Setup) -> Vec<stream::Config> {
    let events = |name: &str, subjects: &[&str]| stream::Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        retention: stream::RetentionPolicy::Limits,
        storage: stream::StorageType::File,
        max_age: 7 * DAY,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: setup.replicas,
        ..Default::default()
    };
    vec![
        events(
            PIPELINE,
            &["build.*", "scan.*", "push.*", v1::TaskDone::SUBJECT, v1::TaskCancel::SUBJECT],
        ),
        events(OPS, &["base.*", "mirror.*", "cleanup.*", "webhook.*"]),
        stream::Config {
            retention: stream::RetentionPolicy::WorkQueue,
            discard: stream::DiscardPolicy::New,
            max_messages: setup.max_queued_tasks,
            ..events(TASKS, &[v1::TaskDispatch::SUBJECT])
        },
        stream::Config { max_age: 30 * DAY, ..events(DEAD_LETTERS, &["dlq.>"]) },
    ]
}

fn consumer_config(durable: Durable) -> consumer::pull::Config {
    consumer::pull::Config {
        durable_name: Some(durable.name.to_owned()),
        filter_subject: durable.subject.to_owned(),
        ack_policy: consumer::AckPolicy::Explicit,
        deliver_policy: consumer::DeliverPolicy::All,
        ack_wait: ACK_WAIT,
        // A backstop only: we make a dead letter of it before.
        max_deliver: i64::try_from(MAX_DELIVERIES).unwrap_or(i64::MAX) + 10,
        // Over all replicas.
        max_ack_pending: 2_000,
        ..Default::default()
    }
}

/// The consumer, or that setup has not run.
pub(crate) async fn bind(
    bus: &Bus,
    durable: Durable,
) -> Result<jetstream::consumer::PullConsumer, Error> {
    bus.jetstream.get_consumer_from_stream(durable.name, durable.stream).await.map_err(|_| {
        Error::NotSetUp(format!("consumer {} of stream {}", durable.name, durable.stream))
    })
}

/// How many messages wait for each consumer, and how many are out with it.
pub async fn backlog(bus: &Bus) -> Result<Vec<(Durable, u64, usize)>, Error> {
    let mut backlog = Vec::new();
    for durable in DURABLES {
        let mut consumer = bind(bus, *durable).await?;
        let info = consumer.info().await.map_err(|error| Error::jetstream(durable.name, error))?;
        backlog.push((*durable, info.num_pending, info.num_ack_pending));
    }
    Ok(backlog)
}

/// Shows what waits for each consumer, and the dead letters, until `shutdown`: also of services that are all down, so
/// it is for one that does nothing else with them.
pub async fn watch_backlog(bus: &Bus, shutdown: &CancellationToken) {
    loop {
        match show_backlog(bus).await {
            Ok(()) => {}
            Err(error) => tracing::debug!(error = chain(&error), "the backlog is not known"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn show_backlog(bus: &Bus) -> Result<(), Error> {
    for (durable, waiting, unacknowledged) in backlog(bus).await? {
        metrics::backlog(durable.name, waiting, unacknowledged);
    }
    metrics::dead_letters_kept(dead_letters::count(bus).await?);
    Ok(())
}
