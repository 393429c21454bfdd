//! A task of a function that ran here before: `task.dispatch` → `task.done`, with S3, PostgreSQL and NATS in the way,
//! beside `docker run` of the same image. One at a time, in turn.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use mecapy_store::tasks::Task;

use crate::report::{Report, percentile};
use crate::task_world::{Timed, World, code, image};

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
    let (mut ours, mut docker_times) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours.push(world.run_timed(&function).await?);
        docker_times.push(world.peer.run(image).await?);
    }
    let our_times: Vec<Duration> = ours.iter().map(|timed| timed.took).collect();
    let mut report = Report::new(name, runs);
    parts(&mut report, &ours);
    report.durations("ours", &our_times);
    report.measure("ours_p99_ms", percentile(&our_times, 99).as_secs_f64() * 1000.0);
    report.measure("ours_parked_share", (world.parked().await? - parked) / runs as f64);
    report.durations("docker", &docker_times);
    let ratio =
        percentile(&our_times, 50).as_secs_f64() / percentile(&docker_times, 50).as_secs_f64();
    report.measure("ratio_docker", ratio);
    Ok(report)
}

type Part = (&'static str, fn(&Timed) -> Option<Duration>);

/// Where the time goes: the median of each part.
fn parts(report: &mut Report, ours: &[Timed]) {
    let parts: [Part; 6] = [
        // Producer → NATS → worker → PostgreSQL.
        ("to_row", |t| between(t.sent_at, t.task.created_at)),
        // The row's answer, the code, a container that waits.
        ("to_claim", |t| between(t.task.created_at, t.task.started_at?)),
        // The function in its container, beside the claim, and what it leaves on S3.
        ("to_kept", |t| between(t.task.started_at?, t.task.ended_at?)),
        // In whole milliseconds, as the task tells.
        ("function", |t| told(&t.task, "runMs")),
        ("s3", |t| told(&t.task, "storeMs")),
        // The transaction → NATS → who waits.
        ("to_done", |t| between(t.task.ended_at?, t.done_at)),
    ];
    for (name, part) in parts {
        let times: Vec<Duration> = ours.iter().filter_map(part).collect();
        let median = percentile(&times, 50).as_secs_f64() * 1000.0;
        report.measure(&format!("ours_part_{name}_p50_ms"), median);
    }
}

fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> Option<Duration> {
    (to - from).to_std().ok()
}

/// Zero is left out of what a task tells.
pub fn told(task: &Task, name: &str) -> Option<Duration> {
    let timings = task.timings.as_ref()?;
    let millis = timings.get(name).and_then(|millis| millis.as_str()).unwrap_or("0");
    millis.parse().ok().map(Duration::from_millis)
}
