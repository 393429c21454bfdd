//! The first task with dependencies that are not here, the base being here, beside `docker pull` and `docker run` of
//! it; and what it costs more when the primary registry refuses, or takes the call and says nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use mecapy_registry::{Destination, ProgressSink, Source, copy_image};
use mecapy_store::tasks::Task;
use tokio::net::TcpListener;

use crate::mirror_world::client;
use crate::report::{Report, percentile};
use crate::task_warm::told;
use crate::worker_world::{Function, Worker, World};

const RUNS: usize = 10;
/// Of what a task tells of itself.
const PARTS: [(&str, &str); 4] =
    [("pull", "fetchMs"), ("start", "startMs"), ("run", "runMs"), ("s3", "storeMs")];
const DEPENDENCY_BYTES: usize = 8 << 20;
/// One image at a time, and nothing that waits for long: so each task pulls.
const ALONE: [(&str, &str); 3] = [
    ("MECAPY_WORKER__CACHE__MAX_IMAGES", "1"),
    ("MECAPY_WORKER__POOL__IDLE_SECONDS", "1"),
    ("MECAPY_WORKER__WARM_UP__ENABLED", "false"),
];

pub async fn measure() -> Result<Report> {
    let mut world = World::start().await?;
    let pair = pair(&mut world).await?;
    let (worker, _) = alone(&mut world, &pair, "MISS", &[]).await?;
    let (mut our_times, mut docker_times) = (Vec::new(), Vec::new());
    let mut parts = PARTS.map(|_| Vec::new());
    for _ in 0..RUNS {
        let (took, task) = cold(&mut world, &worker, &pair, "MISS").await?;
        our_times.push(took);
        for (part, times) in PARTS.iter().zip(&mut parts) {
            times.extend(told(&task, part.1));
        }
        let image = &pair[0].image;
        docker_times.push(world.peer.pull(image).await? + world.peer.run(image).await?);
        world.peer.remove(image).await;
    }
    drop(worker);
    world.peer.remove(&pair[1].image).await;
    let mut report = Report::new("task-cold", RUNS);
    report.durations("ours", &our_times);
    for ((name, _), times) in PARTS.iter().zip(&parts) {
        let median = percentile(times, 50).as_secs_f64() * 1000.0;
        report.measure(&format!("ours_part_{name}_p50_ms"), median);
    }
    report.durations("docker", &docker_times);
    let ratio =
        percentile(&our_times, 50).as_secs_f64() / percentile(&docker_times, 50).as_secs_f64();
    report.measure("ratio_docker", ratio);
    Ok(report)
}

pub async fn measure_failover() -> Result<Report> {
    let mut world = World::start().await?;
    let pair = pair(&mut world).await?;
    for function in &pair {
        copy_to_fallback(&world, function).await?;
    }
    // Bound, and not listened on: refused. Listened on, and never answered: a black hole.
    let refused = tokio::net::TcpSocket::new_v4()?;
    refused.bind("127.0.0.1:0".parse()?)?;
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let primary = |host: String| [("MECAPY_REGISTRIES__PRIMARY__HOST", host)];

    let mut report = Report::new("task-failover", RUNS);
    let (worker, _) = alone(&mut world, &pair, "MISS", &[]).await?;
    let as_ever = times(&mut world, &worker, &pair, "MISS").await?;
    drop(worker);
    let refused = primary(refused.local_addr()?.to_string());
    let (worker, _) = alone(&mut world, &pair, "FAILOVER", &refused).await?;
    let when_refused = times(&mut world, &worker, &pair, "FAILOVER").await?;
    drop(worker);
    let silent_host = primary(silent.local_addr()?.to_string());
    let (worker, first) = alone(&mut world, &pair, "FAILOVER", &silent_host).await?;
    let when_silent = times(&mut world, &worker, &pair, "FAILOVER").await?;
    drop(worker);
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    report.durations("ours_cold", &as_ever);
    let as_ever = millis(percentile(&as_ever, 50));
    report.measure("ours_over_cold_ms", millis(percentile(&when_refused, 50)) - as_ever);
    report.measure("ours_blackholed_first_ms", millis(first));
    report.measure("ours_blackholed_over_cold_ms", millis(percentile(&when_silent, 50)) - as_ever);
    Ok(report)
}

/// Two functions with dependencies of their own, each of which puts the other out.
async fn pair(world: &mut World) -> Result<[Function; 2]> {
    let (one, two) =
        (world.dependencies(DEPENDENCY_BYTES).await?, world.dependencies(DEPENDENCY_BYTES).await?);
    Ok([world.function(&one, BTreeMap::new()).await?, world.function(&two, BTreeMap::new()).await?])
}

async fn alone(
    world: &mut World,
    pair: &[Function; 2],
    cache: &str,
    more: &[(&str, String)],
) -> Result<(Worker, Duration)> {
    let mut all: Vec<(&str, String)> =
        ALONE.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    all.extend(more.iter().cloned());
    let worker = world.worker(&all).await?;
    // Its first tasks have the engine's network, until a container that waited has shown that the engine sees what the
    // worker lays out.
    let (first, _) = cold(world, &worker, pair, cache).await?;
    Ok((worker, first))
}

async fn times(
    world: &mut World,
    worker: &Worker,
    pair: &[Function; 2],
    cache: &str,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        times.push(cold(world, worker, pair, cache).await?.0);
    }
    Ok(times)
}

/// The time of the first function, whose image is not there before nor after.
async fn cold(
    world: &mut World,
    worker: &Worker,
    pair: &[Function; 2],
    cache: &str,
) -> Result<(Duration, Task)> {
    let (took, task) = world.run(&pair[0]).await?;
    ensure!(task.cache.as_deref() == Some(cache), "{task:?}");
    world.run(&pair[1]).await?;
    for server in [&world.servers.system.primary, &world.servers.system.fallback] {
        let Function { repository, digest, .. } = &pair[0];
        world.until_gone(&format!("{}/{repository}@{digest}", server.host)).await?;
    }
    // What comes next is not to be measured beside what this has left to do.
    worker.until_it_has_no_container().await?;
    Ok((took, task))
}

async fn copy_to_fallback(world: &World, function: &Function) -> Result<()> {
    let from = Source {
        registry: client(&world.servers.system.primary)?,
        repository: function.repository.clone(),
        digest: function.digest,
    };
    let to = Destination {
        registry: client(&world.servers.system.fallback)?,
        repository: function.repository.clone(),
        tags: Vec::new(),
    };
    copy_image(&from, &to, &ProgressSink::none()).await?;
    Ok(())
}
