//! A hundred function images on five sets of dependencies, none of them on the fallback yet: from `mirror.requested`
//! to the end of the run, beside skopeo copy and docker pull, tag, push of the same images, one after another. The mirror
//! and skopeo reach the registries by their own addresses, and Docker on loopback, each as in deploy/compose.

use std::time::Instant;

use anyhow::{Result, ensure};
use mecapy_proto::v1::MirrorRequested;
use mecapy_testkit::{Infra, Server};

use crate::mirror_world::{Docker, FUNCTIONS, Skopeo, World, near};
use crate::report::{Report, percentile};

/// Each with servers that have seen nothing.
const RUNS: usize = 3;

pub async fn measure() -> Result<Report> {
    let (mut ours, mut skopeo_times, mut docker_times) = (Vec::new(), Vec::new(), Vec::new());
    let mut report = Report::new("mirror-first", RUNS);
    for run in 0..RUNS {
        let world = World::with_functions().await?;
        let registries = world.registries().await?;
        let _mirror = world.start_mirror_at(&registries).await?;
        let (took, totals) = world.mirror(MirrorRequested::default()).await?;
        ensure!(totals.mirrored as usize > FUNCTIONS, "{totals:?}");
        ours.push(took);
        report.measure("ours_bytes_sent_mb", totals.bytes_sent as f64 / 1e6);
        report.measure("ours_bytes_saved_mb", totals.bytes_saved as f64 / 1e6);

        // A fallback of its own for each peer, so that none finds what another brought.
        let own = Infra::start_open(&[Server::Fallback]).await;
        let ([from, _], to) = (&registries, near(own.fallback()).await?);
        if let Some(skopeo) = Skopeo::new(&[from, &to]).await? {
            let began = Instant::now();
            for image in &world.images {
                let from = format!("{}/{image}", from.host);
                skopeo.copy(&from, &format!("{}/{image}", to.host)).await?;
            }
            skopeo_times.push(began.elapsed());
        }
        // It takes minutes, and hardly varies.
        if run == 0 {
            let own = Infra::start_open(&[Server::Fallback]).await;
            let to = own.fallback();
            let docker = Docker::new(&[&world.system.primary, &to]).await?;
            let mut names = Vec::new();
            let began = Instant::now();
            for image in &world.images {
                let (from, to) = (
                    format!("{}/{image}", world.system.primary.host),
                    format!("{}/{image}", to.host),
                );
                let copied = docker.copy(&from, &to).await;
                names.extend([from, to]);
                if copied.is_err() {
                    docker.remove(&names).await;
                    copied?;
                }
            }
            docker_times.push(began.elapsed());
            docker.remove(&names).await;
        }
        drop(world.infra);
    }
    report.durations("ours", &ours);
    report.durations("docker", &docker_times);
    let ours = percentile(&ours, 50).as_secs_f64();
    report.measure("ratio_docker", ours / percentile(&docker_times, 50).as_secs_f64());
    if skopeo_times.is_empty() {
        report.not_measured("ratio_skopeo", Skopeo::MISSING);
    } else {
        report.durations("skopeo", &skopeo_times);
        report.measure("ratio_skopeo", ours / percentile(&skopeo_times, 50).as_secs_f64());
    }
    Ok(report)
}
