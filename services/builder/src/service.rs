//! Wires the builder to the world.

use std::sync::Arc;
use std::time::Duration;

use mecapy_bus::{Backbone, ConsumerOptions, topology};
use mecapy_engine::Engine;
use mecapy_objects::Objects;
use mecapy_proto::v1::BuildRequested;
use mecapy_service::{Context, chain};

use crate::builder::Builder;
use crate::config::Config;
use crate::handler::Handler;

const CONNECT_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Runs the service until it is told to stop.
pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    let primary = config.registries.primary()?;
    let staging = config.registries.staging()?;
    let Some(engine) = engine(&config.docker, &context).await else { return Ok(()) };
    let options =
        ConsumerOptions { durable: topology::BUILDER, concurrency: config.builder.concurrency };
    let builder = Arc::new(Builder::new(config.builder, engine, primary, staging)?);
    let handler = Handler {
        builder: Arc::clone(&builder),
        pool: backbone.pool.clone(),
        objects: Objects::new(&config.s3),
        live: backbone.live.clone(),
    };
    backbone.consume::<BuildRequested, _>(&context, options, handler).await;
    builder.finish().await;
    Ok(())
}

/// Waits for the engine, for as long as it takes. None: the service is to stop.
async fn engine(options: &mecapy_engine::Options, context: &Context) -> Option<Engine> {
    let condition = context.health.condition("docker");
    loop {
        match Engine::connect(options).await {
            Ok(engine) => {
                condition.met();
                return Some(engine);
            }
            Err(error) => condition.missing(chain(&error)),
        }
        tokio::select! {
            () = tokio::time::sleep(CONNECT_AGAIN_AFTER) => {}
            () = context.shutdown.cancelled() => return None,
        }
    }
}
