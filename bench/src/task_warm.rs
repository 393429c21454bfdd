//! A task of a function that ran here before: `task.dispatch` → `task.done`, with S3, PostgreSQL and NATS in the way,
//! beside `docker run` of the same image. One at a time, in turn.

use anyhow::Result;

use crate::report::{Report, percentile};
use crate::task_world::{World, code, image};

pub async fn measure() -> Result<Report> {
    of("task-warm", "", "", 100).await
}

/// The same for a function that imports numpy and scipy.
pub async fn measure_numpy() -> Result<Report> {
    of("task-numpy", "import numpy, scipy.linalg", "numpy\nscipy\n", 30).await
}

async fn of(name: &'static str, imports: &str, requirements: &str, runs: usize) -> Result<Report> {
    let world = World::start().await?;
    let function = world.function(name, &code(0, imports), requirements).await?;
    let image = image(&function)?;
    // Once for what the first task brings: its image, and containers that wait.
    for _ in 0..10 {
        world.run(&function).await?;
        world.peer.run(image).await?;
    }
    let parked = world.parked().await?;
    let (mut our_times, mut docker_times) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        our_times.push(world.run(&function).await?);
        docker_times.push(world.peer.run(image).await?);
    }
    let mut report = Report::new(name, runs);
    report.durations("ours", &our_times);
    report.measure("ours_p99_ms", percentile(&our_times, 99).as_secs_f64() * 1000.0);
    report.measure("ours_parked_share", (world.parked().await? - parked) / runs as f64);
    report.durations("docker", &docker_times);
    let ratio =
        percentile(&our_times, 50).as_secs_f64() / percentile(&docker_times, 50).as_secs_f64();
    report.measure("ratio_docker", ratio);
    Ok(report)
}
