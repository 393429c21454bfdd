//! The service, wired.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use mecapy_advisories::Info;
use mecapy_bus::{Backbone, ConsumerOptions, topology};
use mecapy_objects::Objects;
use mecapy_proto::v1::BuildDone;
use mecapy_service::{Condition, Context, chain};
use tokio_util::sync::CancellationToken;

use crate::code_scanning::CodeScanning;
use crate::config::EngineName;
use crate::policy::{Policies, Policy};
use crate::rematch::Rematch;
use crate::trivy::Trivy;
use crate::{Advisories, Config, Engine, LayerCache, Osv, Scanner, metric_definitions as metrics};

/// A database is replaced a few times a day: a look costs one call of the file system.
const LOOK_EVERY: Duration = Duration::from_secs(10);

pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    metrics::register();
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    let options = &config.scanner;
    let advisories = Advisories::new(options.database.clone(), options.database_max_age())?;
    // A list that can't be read is for whoever wrote it, before anything is scanned.
    let policies = Policies::new(Policy::load(&options.policy)?);
    advisories.latest().iter().for_each(|database| say(database.info()));
    take_up(&advisories);
    let layers = LayerCache::new(backbone.pool.clone());
    let engine: Arc<dyn Engine> = match options.engine {
        EngineName::Osv => {
            Arc::new(Osv::new(advisories.clone(), layers, options.limits.clone(), options.limit()))
        }
        EngineName::Trivy => Arc::new(Trivy::new(
            options.trivy.clone(),
            config.registries.staging.clone().unwrap_or_else(|| config.registries.primary.clone()),
            options.limit(),
            options.database_max_age(),
        )),
    };
    let condition = context.health.condition("advisories");
    let rematch = Rematch {
        pool: backbone.pool.clone(),
        outbox: backbone.outbox.clone(),
        policies: policies.clone(),
        on_revoked: options.revoked,
    };
    tokio::spawn(watch(
        Arc::clone(&engine),
        advisories,
        rematch,
        condition,
        context.shutdown.clone(),
    ));

    let scanner = Scanner {
        engine,
        policies,
        code_scanning: CodeScanning::new(&options.code_scanning)?,
        staging: config.registries.staging()?,
        objects: Objects::new(&config.s3),
        pool: backbone.pool.clone(),
    };
    let consumer = ConsumerOptions { durable: topology::SCANNER, concurrency: options.concurrency };
    backbone.consume::<BuildDone, _>(&context, consumer, scanner).await;
    Ok(())
}

/// Opens the database if it is there, or is another than before.
fn take_up(advisories: &Advisories) {
    match advisories.refresh() {
        Ok(false) => {}
        Ok(true) => advisories.latest().iter().for_each(|database| say(database.info())),
        Err(error) => {
            tracing::warn!(error = chain(&error), "the advisory database is not taken up")
        }
    }
}

fn say(info: &Info) {
    metrics::database_advisories().set(info.advisories as f64);
    tracing::info!(
        database.version = info.version,
        database.newest = info.newest.map(|newest| newest.to_rfc3339()),
        records = info.records,
        advisories = info.advisories,
        packages = info.packages,
        ecosystems = info.ecosystems.len(),
        "advisories are loaded"
    );
    if info.partial {
        tracing::warn!(
            advisories = info.advisories,
            "no advisory database is configured (scanner.database): scans know the starter set only, and say so"
        );
    }
}

/// A database that is replaced while the service runs is taken up; one that grows too old is a service that isn't
/// ready.
async fn watch(
    engine: Arc<dyn Engine>,
    advisories: Advisories,
    rematch: Rematch,
    condition: Condition,
    shutdown: CancellationToken,
) {
    loop {
        match engine.check() {
            Ok(()) => condition.met(),
            Err(error) => condition.missing(chain(&error)),
        }
        let age = advisories.latest().and_then(|database| database.info().age(Utc::now()));
        metrics::database_age_seconds().set(age.map_or(0.0, |age| age.num_seconds() as f64));
        if let Ok(database) = advisories.current(Utc::now())
            && let Err(error) = rematch.if_due(&database, Utc::now()).await
        {
            tracing::warn!(
                error = chain(&error),
                "live images are matched with the advisories later"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
        take_up(&advisories);
        match rematch.policies.refresh() {
            Ok(false) => {}
            Ok(true) => tracing::info!("the policy's files changed: they are in force"),
            Err(error) => tracing::warn!(error = chain(&error), "the policy stays as it was"),
        }
    }
}
