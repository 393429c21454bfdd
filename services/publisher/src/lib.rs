//! The publisher: what was scanned and passed goes from staging to the primary registry, unchanged; a base image
//! to the fallback as well.
//!
//! Invariants:
//! 1. Only a digest with a PASSED scan on record is published, and only the digest that was scanned.
//! 2. A tag moves after the manifest was read back. One that is not of this image alone (`latest`, `3.11-slim`) moves
//!    last, not before every registry has the image, and never back to an older build.
//! 3. A registry that is away is waited for; one that refuses our credentials is not.
//!
//! The way through: `scan.done` → [`Publish`] checks the record → `release.rs`: under which name, and the copy by
//! `mecapy_registry::copy_image` → build ready, `push.done`.

mod config;
mod metric_definitions;
mod publish;
mod release;

use mecapy_bus::{Backbone, ConsumerOptions, topology};
use mecapy_proto::v1::ScanDone;
use mecapy_service::Context;

pub use config::{Config, Options};
pub use publish::Publish;

pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    let publish = Publish {
        pool: backbone.pool.clone(),
        staging: config.registries.staging()?,
        primary: config.registries.primary()?,
        fallback: config.registries.fallback()?,
    };
    let options =
        ConsumerOptions { durable: topology::PUBLISHER, concurrency: config.publisher.concurrency };
    backbone.consume::<ScanDone, _>(&context, options, publish).await;
    Ok(())
}
