//! The janitor: a registry that stays small, and never loses a live image.

mod config;

use mecapy_bus::Backbone;
use mecapy_proto::v1::CleanupRequested;
use mecapy_service::Context;

pub use config::{Config, Options};

pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    if let Some(schedule) = &config.janitor.schedule {
        let requested = |run_id| CleanupRequested {
            run_id,
            reason: "schedule".to_owned(),
            ..CleanupRequested::default()
        };
        backbone.publish_ticks(&context, schedule, "cleanup", requested).await;
    }
    Ok(())
}
