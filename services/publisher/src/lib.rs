//! The publisher: what was scanned and passed goes from staging to the primary registry, unchanged; a base image
//! to the fallback as well.
//!
//! Invariants:
//! 1. Only a digest with a PASSED scan on record is published, and only the digest that was scanned.
//! 2. A tag moves after the manifest was read back. One that is not of this image alone (`latest`, `3.11-slim`) moves
//!    last, not before every registry has the image, and never back to an older build.
//! 3. A registry that is away is waited for; one that refuses our credentials is not.
//! 4. An image goes with its SBOM, scan report, SARIF and provenance, as referrers of its digest, or it is not published.
//!    They are there before the tag that leads to the newest moves to it.
//! 5. What is published leaves staging, after the commit, unless another build needs it there.
//!
//! The way through: `scan.done` → [`Publish`] → `checked.rs`: the record → `release.rs`: under which name, and the copy
//! by `mecapy_registry::Copier` → `attach.rs`, `provenance.rs`: what goes with it → the moving tag → build ready,
//! `push.done` → `staging.rs`.

mod attach;
mod checked;
mod config;
mod metric_definitions;
mod provenance;
mod publish;
mod release;
mod staging;
mod trouble;

use mecapy_bus::{Backbone, ConsumerOptions, topology};
use mecapy_objects::Objects;
use mecapy_proto::v1::ScanDone;
use mecapy_registry::Copier;
use mecapy_service::Context;
use tokio_util::task::TaskTracker;

pub use attach::{PROVENANCE, REPORT, SARIF, SBOM};
pub use config::{Config, Options};
pub use publish::Publish;
pub use staging::Broom;

pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    metric_definitions::register();
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    let primary = config.registries.primary()?;
    let broom = Broom {
        pool: backbone.pool.clone(),
        staging: config.registries.staging_beside(&primary)?,
        sweeping: TaskTracker::new(),
    };
    let publish = Publish {
        pool: backbone.pool.clone(),
        objects: Objects::new(&config.s3),
        staging: broom.clone(),
        primary: Copier::new(primary),
        fallback: config.registries.fallback()?.map(Copier::new),
    };
    let options =
        ConsumerOptions { durable: topology::PUBLISHER, concurrency: config.publisher.concurrency };
    backbone.consume::<ScanDone, _>(&context, options, publish).await;
    broom.rest().await;
    Ok(())
}
