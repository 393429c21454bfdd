//! The worker: runs a function's image on a task's inputs, once as far as anybody can tell.
//!
//! Invariants:
//! 1. Only a digest with a PASSED scan on record runs, and only as an image of the task's own function.
//! 2. Taking a task raises its attempt, and only the newest attempt's end is recorded. An attempt that was overtaken
//!    leaves no trace: no row, no event, no result, no ack. A function may begin while its task is being taken; nothing
//!    comes of it before that is done.
//! 3. A task ends. What can't be run fails with a typed code; what can't be run again and again is LOST.
//! 4. An image in use is not put out; the cache is within its limits otherwise; images that no worker pulled are
//!    not touched.
//! 5. No container outlives its task: it is removed at its end, when the process is told to end, by the next start
//!    under the same name after a crash, and by whoever takes the task over on this engine.
//! 6. A parked container has one turn. It is of an image with a PASSED scan that ran here, and runs only the code of
//!    an image with a PASSED scan whose lower layers and configuration are the same, each verified by its digest.
//!    The container says which code it began with; another than was laid out, and its end counts for nothing.
//! 7. What can't be run in a parked container runs in one of its own image: slower, and with the same result.
//!
//! The way of a task:
//!
//! ```text
//! task.dispatch ─▶ row ─▶ reasons not to run ─▶ fetch: inputs ∥ image_choice ─▶ images (cache, else pull) ─▶ claim
//!                                                        ╰─▶ codes ─▶ pool: a container with its dependencies waits
//!   ─▶ execution (a parked container, else one of its own) ─▶ ending (pure) ─▶ storage (S3) ─▶ report (row, usage, task.done) ─▶ KV
//! ```

mod affinity;
mod attempt;
mod background;
mod breaker;
mod code_layer;
mod code_place;
mod codes;
mod config;
mod dispatch;
mod drain;
mod ending;
mod error;
mod execution;
mod heartbeat;
mod image_cache;
mod image_choice;
mod images;
mod imports;
mod inputs;
mod json;
mod kept;
mod leaving;
mod leftovers;
mod live_log;
mod local_images;
mod machine_memory;
mod metric_definitions;
mod patience;
mod peers;
mod pool;
mod pool_folder;
mod pool_plan;
mod prepare;
mod pull;
mod report;
mod running;
mod shelf;
mod slot;
mod sources;
mod storage;
mod warm_up;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use mecapy_bus::{Backbone, ConsumerOptions, Results, Workers, topology};
use mecapy_engine::Engine;
use mecapy_objects::Objects;
use mecapy_proto::v1::TaskDispatch;
use mecapy_service::{Condition, Context, chain};
use tokio_util::task::TaskTracker;

pub use config::{CacheOptions, Config, LimitOptions, Options, PoolOptions, WarmUpOptions};
pub use error::Error;

use crate::background::Background;
use crate::codes::Codes;
use crate::drain::Drain;
use crate::heartbeat::Heartbeat;
use crate::image_cache::Bounds;
use crate::images::Images;
use crate::live_log::LiveLogs;
use crate::peers::Peers;
use crate::pool::Pool;
use crate::running::Running;
use crate::sources::Sources;
use crate::warm_up::WarmUp;
use crate::worker::Worker;

const LOOK_EVERY: Duration = Duration::from_secs(5);
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Runs the worker until it is told to stop and what runs has ended or is handed back.
pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    metric_definitions::register();
    let name = config.name();
    let sources = Sources::new(
        config.registries.primary()?,
        config.registries.fallback()?,
        Duration::from_secs(config.worker.cache.pull_timeout_seconds),
    );
    tokio::spawn(sources.clone().watch());
    let bounds =
        Bounds { images: config.worker.cache.max_images, bytes: config.worker.cache.max_gib << 30 };
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    let objects = Objects::new(&config.s3);
    tokio::spawn(watch_objects(objects.clone(), context.health.condition("s3")));

    let docker = context.health.condition("docker");
    let background = Background::default();
    let begin = begin(&config, &name, &sources, &background, bounds, &docker);
    let Some((engine, images)) = context.shutdown.run_until_cancelled(begin).await else {
        return Ok(());
    };
    tokio::spawn(watch_engine(engine.clone(), docker));
    let running = Running::default();
    tokio::spawn(running.clone().listen(backbone.live.clone()));
    let logs = LiveLogs::default();
    tokio::spawn(logs.clone().listen(backbone.live.clone()));
    let pool =
        Pool::new(engine.clone(), config.worker.clone(), name.clone(), background.clone()).await;
    tokio::spawn(pool.clone().tend());
    tokio::spawn(leftovers::watch(engine.clone(), name.clone(), running.clone(), pool.clone()));

    let slots = config.worker.slots();
    metric_definitions::slots(slots);
    tracing::info!(worker = name, slots, "takes tasks");
    let afterwards = TaskTracker::new();
    let codes = Codes::new(sources.clone());
    let drain = Drain::new(backbone.bus.clone(), name.clone(), pool.clone());
    let warm_up = config.worker.warm_up.clone();
    let beat = tokio::spawn(
        Heartbeat {
            workers: Workers::new(backbone.bus.clone()),
            name: name.clone(),
            slots,
            started_at: chrono::Utc::now(),
            running: running.clone(),
            images: images.clone(),
            parked: pool.clone(),
            sources: sources.clone(),
            pause: drain.pause(),
            shutdown: context.shutdown.clone(),
        }
        .beat(),
    );
    if warm_up.enabled {
        let warming = WarmUp {
            pool: backbone.pool.clone(),
            engine: engine.clone(),
            sources: sources.clone(),
            images: images.clone(),
            codes: codes.clone(),
            parked: pool.clone(),
        };
        tokio::spawn(warming.listen(backbone.live.clone(), warm_up.max_waiting));
    }
    let peers = Peers::default();
    tokio::spawn(peers.clone().listen(Workers::new(backbone.bus.clone())));
    let worker = Worker {
        name: name.clone(),
        options: config.worker,
        pool: backbone.pool.clone(),
        objects,
        results: Arc::new(Results::new(backbone.bus.clone())),
        engine: engine.clone(),
        codes,
        sources,
        images,
        parked: pool.clone(),
        running,
        peers,
        live: backbone.live.clone(),
        logs,
        background,
        afterwards: afterwards.clone(),
    };
    let consumer = ConsumerOptions { durable: topology::WORKER, concurrency: slots };
    // Who was drained before a restart takes nothing after it.
    let orders = context.health.condition("drain orders");
    let _ = context.shutdown.run_until_cancelled(drain.learn(&orders)).await;
    let pause = drain.pause();
    tokio::spawn(drain.follow());
    backbone.consume_as::<TaskDispatch, _>(&context, consumer, &name, pause, worker).await;

    beat.abort();
    // Who can't be told now forgets it by itself.
    let _ = Workers::new(backbone.bus.clone()).forget(&name).await;
    afterwards.close();
    afterwards.wait().await;
    pool.close().await;
    // What was handed back is being killed now: the process must not end before it.
    leftovers::remove_all(&engine, &name).await?;
    backbone.bus.flush().await;
    Ok(())
}

/// Waits for the engine, removes what a dead predecessor left in it, and learns which images it has.
async fn begin(
    config: &Config,
    name: &str,
    sources: &Sources,
    background: &Background,
    bounds: Bounds,
    docker: &Condition,
) -> (Engine, Images) {
    loop {
        match try_begin(config, name, sources, background, bounds).await {
            Ok(begun) => {
                docker.met();
                return begun;
            }
            Err(error) => docker.missing(chain(&error)),
        }
        tokio::time::sleep(TRY_AGAIN_AFTER).await;
    }
}

async fn try_begin(
    config: &Config,
    name: &str,
    sources: &Sources,
    background: &Background,
    bounds: Bounds,
) -> Result<(Engine, Images), Error> {
    let engine = Engine::connect(&config.docker).await?;
    check_runtime(&engine, config.worker.runtime.as_deref()).await?;
    leftovers::remove_all(&engine, name).await?;
    let found = local_images::list(&engine, &config.docker, &sources.hosts()).await?;
    tracing::info!(images = found.len(), "images of before are kept");
    let images = Images::new(engine.clone(), sources.clone(), background.clone(), bounds, found);
    Ok((engine, images))
}

/// With a runtime that isn't there, each task would fail.
async fn check_runtime(engine: &Engine, wanted: Option<&str>) -> Result<(), Error> {
    let Some(wanted) = wanted else { return Ok(()) };
    let found = engine.runtimes().await?;
    if found.iter().any(|name| name == wanted) {
        return Ok(());
    }
    Err(Error::NoRuntime { wanted: wanted.to_owned(), found })
}

async fn watch_engine(engine: Engine, condition: Condition) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match engine.ping().await {
            Ok(()) => condition.met(),
            Err(error) => condition.missing(chain(&error)),
        }
    }
}

async fn watch_objects(objects: Objects, condition: Condition) {
    loop {
        match objects.ping().await {
            Ok(()) => condition.met(),
            Err(error) => condition.missing(chain(&error)),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
