//! The service, wired.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use mecapy_bus::{Backbone, ConsumerOptions, topology};
use mecapy_objects::Objects;
use mecapy_proto::v1::BuildDone;
use mecapy_service::{Condition, Context, chain};
use tokio_util::sync::CancellationToken;

use crate::advisory::Info;
use crate::{Config, Engine, LayerCache, Osv, Scanner, metric_definitions as metrics};

const LOOK_EVERY: Duration = Duration::from_secs(60);

pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    let options = &config.scanner;
    let path = options.database.clone();
    let database = tokio::task::spawn_blocking(move || Osv::database(path.as_deref())).await??;
    let info = database.info().clone();
    say(&info);

    let layers = LayerCache::new(backbone.pool.clone());
    let osv = Osv::new(
        database,
        layers,
        options.limits.clone(),
        options.limit(),
        options.database_max_age(),
    );
    let engine: Arc<dyn Engine> = Arc::new(osv);
    let condition = context.health.condition("advisories");
    tokio::spawn(watch_age(Arc::clone(&engine), info, condition, context.shutdown.clone()));

    let scanner = Scanner {
        engine,
        staging: config.registries.staging()?,
        objects: Objects::new(&config.s3),
        pool: backbone.pool.clone(),
    };
    let consumer = ConsumerOptions { durable: topology::SCANNER, concurrency: options.concurrency };
    backbone.consume::<BuildDone, _>(&context, consumer, scanner).await;
    Ok(())
}

fn say(info: &Info) {
    metrics::database_advisories().set(info.advisories as f64);
    tracing::info!(
        database.source = info.source,
        database.version = info.version,
        records = info.records,
        withdrawn = info.withdrawn,
        advisories = info.advisories,
        packages = info.packages,
        "advisories are loaded"
    );
    if info.partial {
        tracing::warn!(
            advisories = info.advisories,
            "no advisory database is configured (scanner.database): scans know the starter set only, and say so"
        );
    }
}

/// A database that grows too old while the service runs is a service that isn't ready.
async fn watch_age(
    engine: Arc<dyn Engine>,
    info: Info,
    condition: Condition,
    shutdown: CancellationToken,
) {
    loop {
        match engine.check() {
            Ok(()) => condition.met(),
            Err(error) => condition.missing(chain(&error)),
        }
        if let Some(newest) = info.newest.filter(|_| !info.partial) {
            metrics::database_age_seconds().set((Utc::now() - newest).num_seconds() as f64);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
