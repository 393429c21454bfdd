//! The first task of a function that this worker never saw, whose dependencies are here, beside `docker pull` and
//! `docker run` of it. In turn.

use anyhow::Result;

use crate::report::{Report, percentile};
use crate::task_world::{World, code, image};

const RUNS: usize = 20;

pub async fn measure() -> Result<Report> {
    let world = World::start().await?;
    let known = world.function("known", &code(0, ""), "").await?;
    let mut functions = Vec::new();
    for number in 1..=RUNS {
        let name = format!("first-{number}");
        functions.push(world.function(&name, &code(number, ""), "").await?);
    }
    // Once for the dependencies: what a function finds that comes later.
    for _ in 0..3 {
        world.run(&known).await?;
        world.peer.run(image(&known)?).await?;
    }
    let parked = world.parked().await?;
    let (mut our_times, mut docker_times) = (Vec::new(), Vec::new());
    for function in &functions {
        our_times.push(world.run(function).await?);
        let image = image(function)?;
        docker_times.push(world.peer.pull(image).await? + world.peer.run(image).await?);
    }
    for function in &functions {
        world.peer.remove(image(function)?).await;
    }
    let mut report = Report::new("task-first", RUNS);
    report.durations("ours", &our_times);
    report.measure("ours_parked_share", (world.parked().await? - parked) / RUNS as f64);
    report.durations("docker", &docker_times);
    let ratio =
        percentile(&our_times, 50).as_secs_f64() / percentile(&docker_times, 50).as_secs_f64();
    report.measure("ratio_docker", ratio);
    Ok(report)
}
