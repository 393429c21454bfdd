//! A new layer of code on a base and dependencies that are known.

use std::time::Instant;

use anyhow::Result;
use mecapy_scanner::LayerCache;
use mecapy_testkit::{Infra, Server};

use crate::direct::direct;
use crate::mirror_world::{client, near};
use crate::report::Report;
use crate::scan_world::{Image, advisories, engine, scan};

const RUNS: usize = 50;

pub async fn measure() -> Result<Report> {
    mecapy_service::install_tls();
    let infra = Infra::start(&[Server::Primary, Server::Postgres]).await;
    let registry = client(&near(infra.primary()).await?)?;
    let url = direct(&infra.postgres().await, 5432).await?;
    let options = mecapy_store::Options { url, ..Default::default() };
    let pool = mecapy_store::connect(&options).await?;
    mecapy_store::migrate(&pool).await?;
    let image = Image::push(&registry, "scanned").await?;
    let engine = engine(&advisories()?, LayerCache::new(pool));
    let first = image.with_code(&registry, "print('first')\n").await?;
    scan(&engine, &registry, &image.repository, first).await?;
    let mut times = Vec::new();
    for run in 0..RUNS {
        let digest = image.with_code(&registry, &format!("print({run})\n")).await?;
        let began = Instant::now();
        scan(&engine, &registry, &image.repository, digest).await?;
        times.push(began.elapsed());
    }
    let mut report = Report::new("scan-warm", RUNS);
    report.durations("ours", &times);
    Ok(report)
}
