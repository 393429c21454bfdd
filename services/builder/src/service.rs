//! Wires the builder to the world.

use std::sync::Arc;
use std::time::Duration;

use mecapy_bus::{Backbone, ConsumerOptions, topology};
use mecapy_engine::Engine;
use mecapy_objects::Objects;
use mecapy_proto::v1::{BaseBuild, BaseRequested, BuildRequested};
use mecapy_service::{Context, chain};

use crate::base_builder::BaseBuilder;
use crate::base_handler::BaseHandler;
use crate::base_matrix::BaseMatrix;
use crate::builder::Builder;
use crate::config::Config;
use crate::handler::Handler;
use crate::metric_definitions;
use crate::replicas::Replicas;

const CONNECT_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Runs the service until it is told to stop.
pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    metric_definitions::register();
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    let primary = config.registries.primary()?;
    let staging = config.registries.staging_beside(&primary)?;
    let Some(engine) = engine(&config.docker, &context).await else { return Ok(()) };
    if let Err(error) = engine.remove_old_archives(config.builder.limit()).await {
        tracing::warn!(error = chain(&error), "what builds that died have left is still there");
    }
    let options =
        ConsumerOptions { durable: topology::BUILDER, concurrency: config.builder.concurrency };
    let bases = config.builder.base.clone();
    let base_builder =
        BaseBuilder::new(config.builder.clone(), engine.clone(), &primary, staging.clone())?;
    if let Err(error) = base_builder.sweep().await {
        tracing::warn!(error = chain(&error), "images of builds that died are still there");
    }
    let base_builder = Arc::new(base_builder);
    let replicas = Some(Replicas::new(backbone.pool.clone()));
    let builder = Arc::new(Builder::new(config.builder, engine, primary, staging, replicas)?);
    let objects = Objects::new(&config.s3);
    let handler = Handler {
        builder: Arc::clone(&builder),
        pool: backbone.pool.clone(),
        objects: objects.clone(),
        live: backbone.live.clone(),
    };
    let base_handler = BaseHandler {
        builder: Arc::clone(&base_builder),
        pool: backbone.pool.clone(),
        objects,
        live: backbone.live.clone(),
    };
    let schedule = async {
        let Some(schedule) = &bases.schedule else { return };
        let requested = |run_id| BaseRequested {
            run_id,
            reason: "schedule".to_owned(),
            ..BaseRequested::default()
        };
        backbone.publish_ticks(&context, schedule, "base", requested).await;
    };
    let matrix_options = ConsumerOptions { durable: topology::BASE_MATRIX, concurrency: 1 };
    let base_options =
        ConsumerOptions { durable: topology::BASE_BUILDER, concurrency: bases.concurrency };
    let matrix = BaseMatrix { options: bases.clone() };
    tokio::join!(
        backbone.consume::<BuildRequested, _>(&context, options, handler),
        backbone.consume::<BaseRequested, _>(&context, matrix_options, matrix),
        backbone.consume::<BaseBuild, _>(&context, base_options, base_handler),
        schedule,
    );
    builder.finish().await;
    base_builder.finish().await;
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
