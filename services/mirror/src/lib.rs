//! The mirror: the most used images, with their digests, on a second registry.
//!
//! Invariants:
//! 1. What a run copies is written down with the run, in one transaction with the messages that ask for it: one an
//!    image, and any replica copies it. A replica that dies gives its images to the others.
//! 2. An image has one outcome in a run. The one that records the last outcome ends the run, and sends the only
//!    `mirror.done`.
//! 3. Every run ends: what can't be reached for too long is a failure of the image, with the reason.
//! 4. The fallback has an image under the primary's digest or not at all. `latest` there is what the function runs
//!    on the primary, when that has been copied.
//! 5. Only published images are copied, so only such that have passed their scan. What a pull of the mirror touches
//!    does not count as use.
//! 6. What refers to an image (SBOM, reports, provenance, signatures) goes with it, and what refers to that: an image
//!    without it is not yet mirrored.
//!
//! The way through: `mirror.requested` (cron, CLI, or `push.done` when `mirror.on_publish` is set) → [`Plan`]
//! chooses, from the daily usage, ends what is as it should be (`audit.rs`), and writes run and images →
//! `mirror.image` → [`CopyImage`] copies one and records its outcome → `mirror.done` → [`WriteReport`] leaves
//! `mirror/{run}/report.json` and `.txt` in S3.

mod audit;
mod choice;
mod config;
mod copy_image;
mod dry_run;
mod lag;
mod latest;
mod metric_definitions;
mod plan;
mod progress;
mod published;
mod report;

use mecapy_bus::{Backbone, ConsumerOptions, topology};
use mecapy_objects::Objects;
use mecapy_proto::v1::{MirrorDone, MirrorImage, MirrorRequested, PushDone};
use mecapy_registry::Copier;
use mecapy_service::Context;

pub use choice::BASE_REPOSITORY;
pub use config::{Config, Options};
pub use copy_image::CopyImage;
pub use lag::watch_lag;
pub use plan::Plan;
pub use published::Published;
pub use report::{Report, WriteReport};

/// Runs that are planned at once, and reports that are written at once: a few a day, but `push.done` comes often.
const FEW: usize = 4;

pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    metric_definitions::register();
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    let pool = backbone.pool.clone();
    let primary = config.registries.primary()?;
    // Checked with the configuration.
    let fallback = config.registries.fallback()?.ok_or("registries.fallback is not set")?;
    let copier = Copier::new(fallback);
    let options = config.mirror;

    let plan = Plan {
        pool: pool.clone(),
        primary: primary.clone(),
        copier: copier.clone(),
        window_days: options.window_days,
        limit: options.limit,
        max_deliveries: options.max_deliveries,
    };
    let copy = CopyImage::new(pool.clone(), primary, copier, options.max_deliveries);
    let published = Published { pool: pool.clone(), is_on: options.on_publish };
    let report = WriteReport { pool: pool.clone(), objects: Objects::new(&config.s3) };
    tokio::spawn(watch_lag(pool, options.window_days, context.shutdown.clone()));

    let consumer = |durable, concurrency| ConsumerOptions { durable, concurrency };
    let schedule = async {
        if let Some(schedule) = &options.schedule {
            let requested = |run_id| MirrorRequested {
                run_id,
                verify_percent: options.verify_percent,
                reason: "schedule".to_owned(),
                ..MirrorRequested::default()
            };
            backbone.publish_ticks(&context, schedule, "mirror", requested).await;
        }
    };
    tokio::join!(
        schedule,
        backbone.consume::<MirrorRequested, _>(&context, consumer(topology::MIRROR, FEW), plan),
        backbone.consume::<MirrorImage, _>(
            &context,
            consumer(topology::MIRROR_IMAGE, options.concurrency),
            copy
        ),
        backbone.consume::<PushDone, _>(
            &context,
            consumer(topology::MIRROR_PUBLISHED, FEW),
            published
        ),
        backbone.consume::<MirrorDone, _>(&context, consumer(topology::MIRROR_REPORT, FEW), report),
    );
    Ok(())
}
