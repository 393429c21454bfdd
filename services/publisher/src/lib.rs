//! The publisher: what was scanned and passed goes from staging to the primary registry, unchanged.
//!
//! Invariants:
//! 1. Only a digest with a PASSED scan on record is published, and only the digest that was scanned.
//! 2. The version's tag, then `latest`, move after the manifest was read back from the primary.
//! 3. A registry that is away is waited for; one that refuses our credentials is not.
//!
//! The way through: `scan.done` → [`Publish`] checks the record → `mecapy_registry::copy_image` → build ready,
//! `push.done`.

mod config;
mod metric_definitions;
mod publish;

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
    };
    let options =
        ConsumerOptions { durable: topology::PUBLISHER, concurrency: config.publisher.concurrency };
    backbone.consume::<ScanDone, _>(&context, options, publish).await;
    Ok(())
}
