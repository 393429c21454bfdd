//! An image of 300 MB of which nothing is known.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mecapy_scanner::LayerCache;
use mecapy_testkit::{Infra, Server};

use crate::mirror_world::client;
use crate::report::{Report, percentile};
use crate::scan_world::{Image, advisories, engine, scan, trivy};

const RUNS: usize = 5;
const NO_TRIVY: &str =
    "there is no trivy with a database: make trivy, scripts/trivy database, TRIVY_CACHE_DIR";

pub async fn measure() -> Result<Report> {
    mecapy_service::install_tls();
    let infra = Infra::start(&[Server::Primary]).await;
    let server = infra.primary();
    let registry = client(&server)?;
    let image = Image::push(&registry, "scanned").await?;
    let digest = image.with_code(&registry, "print(1)\n").await?;
    let advisories = advisories()?;
    forget_peak();
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let engine = engine(&advisories, LayerCache::in_memory());
        let began = Instant::now();
        let packages = scan(&engine, &registry, &image.repository, digest).await?;
        times.push(began.elapsed());
        ensure!(packages == 117, "{packages} packages");
    }
    let mut report = Report::new("scan-cold", RUNS);
    report.durations("ours", &times);
    report.measure("ours_max_rss_mib", peak_mib()?);
    report.measure("image_mb", image.bytes() as f64 / 1e6);
    let Some(trivy) = trivy(&server).await else {
        report.not_measured("ratio_trivy", NO_TRIVY);
        return Ok(report);
    };
    let mut theirs = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        scan(&trivy, &registry, &image.repository, digest).await?;
        theirs.push(began.elapsed());
    }
    report.durations("trivy", &theirs);
    let ratio = percentile(&times, 50).as_secs_f64() / percentile(&theirs, 50).as_secs_f64();
    report.measure("ratio_trivy", ratio);
    Ok(report)
}

/// So that the peak is the scans', not that of making the image.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
