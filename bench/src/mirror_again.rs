//! The same hundred images when all of them are on the fallback: what the nightly run mostly is.

use std::time::Instant;

use anyhow::{Result, ensure};
use mecapy_proto::v1::MirrorRequested;

use crate::mirror_world::{FUNCTIONS, Skopeo, World};
use crate::report::{Report, percentile};

const RUNS: usize = 10;
const SKOPEO_RUNS: usize = 3;

pub async fn measure() -> Result<Report> {
    let world = World::with_functions().await?;
    let registries = world.registries().await?;
    let _mirror = world.start_mirror_at(&registries).await?;
    world.mirror(MirrorRequested::default()).await?;
    let [primary, fallback] = &registries;
    let skopeo = Skopeo::new(&[primary, fallback]).await?;
    let (mut ours, mut skopeo_times) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let (took, totals) = world.mirror(MirrorRequested::default()).await?;
        ensure!(totals.unchanged as usize > FUNCTIONS, "{totals:?}");
        ours.push(took);
        if let Some(skopeo) = skopeo.as_ref().filter(|_| run < SKOPEO_RUNS) {
            // What ours brought is what it finds.
            let began = Instant::now();
            for image in &world.images {
                let from = format!("{}/{image}", primary.host);
                skopeo.copy(&from, &format!("{}/{image}", fallback.host)).await?;
            }
            skopeo_times.push(began.elapsed());
        }
    }
    let mut report = Report::new("mirror-again", RUNS);
    report.durations("ours", &ours);
    let ours = percentile(&ours, 50).as_secs_f64();
    report.measure("ours_p50_ms_per_image", ours * 1000.0 / FUNCTIONS as f64);
    if skopeo_times.is_empty() {
        report.not_measured("ratio_skopeo", Skopeo::MISSING);
    } else {
        report.durations("skopeo", &skopeo_times);
        let skopeo = percentile(&skopeo_times, 50).as_secs_f64();
        report.measure("skopeo_p50_ms_per_image", skopeo * 1000.0 / FUNCTIONS as f64);
        report.measure("ratio_skopeo", ours / skopeo);
    }
    Ok(report)
}
