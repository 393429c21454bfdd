//! The mirror: the most used images, with their digests, on a second registry.

mod config;

use mecapy_bus::Backbone;
use mecapy_proto::v1::MirrorRequested;
use mecapy_service::Context;

pub use config::{Config, Options};

pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    if let Some(schedule) = &config.mirror.schedule {
        let requested = |run_id| MirrorRequested {
            run_id,
            reason: "schedule".to_owned(),
            ..MirrorRequested::default()
        };
        backbone.publish_ticks(&context, schedule, "mirror", requested).await;
    }
    Ok(())
}
