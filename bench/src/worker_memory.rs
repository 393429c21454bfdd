//! The worker's own memory with two hundred images and fifty containers that wait.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mecapy_proto::v1::PushDone;

use crate::report::Report;
use crate::worker_world::{Function, World};

const IMAGES: usize = 200;
const PARKED: usize = 50;
const PATIENCE: Duration = Duration::from_secs(900);

pub async fn measure() -> Result<Report> {
    let mut world = World::start().await?;
    let base = world.servers.base().await?;
    let mut functions = Vec::new();
    for number in 0..IMAGES {
        // Each with dependencies of its own, as far as the worker can tell: so each is pulled, and one waits for it.
        let env = [("MECAPY_BENCH".to_owned(), number.to_string())].into();
        functions.push(world.function(&base, env).await?);
    }
    let worker = world
        .worker(&[
            ("MECAPY_WORKER__POOL__MAX_CONTAINERS", PARKED.to_string()),
            ("MECAPY_WORKER__POOL__MEMORY_MIB", "4096".to_owned()),
            ("MECAPY_WORKER__POOL__IDLE_SECONDS", "3600".to_owned()),
            ("MECAPY_WORKER__WARM_UP__MAX_WAITING", IMAGES.to_string()),
        ])
        .await?;
    let began = Instant::now();
    // Who is not listening yet misses what is published: that is no more than a hint.
    let mut tries = 0;
    while worker.metric("mecapy_cached_images", "").await? < 1.0 {
        ensure!(began.elapsed() < PATIENCE, "no image is fetched ahead");
        publish(&world, &functions[0], tries).await?;
        tries += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for function in &functions[1..] {
        publish(&world, function, 0).await?;
    }
    loop {
        let images = worker.metric("mecapy_cached_images", "").await?;
        let waiting = worker.metric("mecapy_parked_containers", "state=\"waiting\"").await?;
        if images >= IMAGES as f64 && waiting >= PARKED as f64 {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "{images} images, {waiting} containers wait");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // And after a task of each of some of them.
    for function in functions.iter().take(20) {
        world.run(function).await?;
    }
    let pid = worker.process.id().context("the worker has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no memory")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    };
    let mut report = Report::new("worker-memory", 1);
    report.measure("ours_max_rss_mib", kib("VmHWM:")? / 1024.0);
    report.measure("ours_rss_mib", kib("VmRSS:")? / 1024.0);
    drop(worker);
    for function in &functions {
        world.peer.remove(&function.image).await;
    }
    Ok(report)
}

/// The second of two alike would not be passed on.
async fn publish(world: &World, function: &Function, number: u32) -> Result<()> {
    let event = PushDone {
        build_id: format!("{}-{number}", function.digest),
        function_id: function.id.get(),
        image: function.image.clone(),
        digest: function.digest.to_string(),
        size_bytes: function.size_bytes,
        ..PushDone::default()
    };
    world.servers.system.bus.publish(&event).await?;
    Ok(())
}
