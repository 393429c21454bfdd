//! Twenty functions, asked for by Zipf's law, on two workers that always have something to do, beside `docker run` at
//! the concurrency at which it does most.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mecapy_proto::TaskId;
use mecapy_store::tasks;

use crate::report::{Report, percentile};
use crate::worker_world::{Function, World};

const FUNCTIONS: usize = 20;
const DEPENDENCY_SETS: usize = 5;
const DEPENDENCY_BYTES: usize = 4 << 20;
/// Tasks that are under way or wait, at any time.
const OUTSTANDING: usize = 8;
const DURATION: Duration = Duration::from_secs(300);
/// What functions say whose tasks may share a container; they are tried for this part of the time.
const REUSE: &str = "# mecapy: reuse 100";
const SHARED_PART: u32 = 5;
/// `docker run` is tried with each, for so long.
const PEER_CONCURRENCY: [usize; 3] = [2, 4, 8];
const PEER_DURATION: Duration = Duration::from_secs(20);

pub async fn measure() -> Result<Report> {
    // A shorter look, while something is being changed.
    let seconds = std::env::var("MECAPY_BENCH_LOAD_SECONDS").ok().and_then(|s| s.parse().ok());
    let duration = seconds.map_or(DURATION, Duration::from_secs);
    let mut world = World::start().await?;
    let mut sets = Vec::new();
    for _ in 0..DEPENDENCY_SETS {
        sets.push(world.dependencies(DEPENDENCY_BYTES).await?);
    }
    let mut functions = Vec::new();
    for number in 0..FUNCTIONS {
        functions.push(world.function(&sets[number % DEPENDENCY_SETS], BTreeMap::new()).await?);
    }
    let docker = peer(&world, &functions).await?;

    let workers = [world.worker(&[]).await?, world.worker(&[]).await?];
    let (times, took) = load(&mut world, &functions, duration).await?;
    let mut hits = 0;
    for (id, _) in &times {
        let task = tasks::get(&world.servers.system.pool, *id).await?.context("no task")?;
        hits += usize::from(task.cache.as_deref() == Some("HIT"));
    }
    let mut parked = 0.0;
    for worker in &workers {
        parked += worker.metric("mecapy_task_starts_total", "path=\"parked\"").await?;
    }
    let mut sharing = Vec::new();
    for number in 0..FUNCTIONS {
        let set = &sets[number % DEPENDENCY_SETS];
        sharing.push(world.function_that_asks(set, BTreeMap::new(), REUSE).await?);
    }
    let (shared, shared_took) = load(&mut world, &sharing, duration / SHARED_PART).await?;
    let shared = shared.len() as f64 / shared_took.as_secs_f64();
    drop(workers);

    let ends = times.len();
    let all: Vec<Duration> = times.into_iter().map(|(_, time)| time).collect();
    let per_second = ends as f64 / took.as_secs_f64();
    let mut report = Report::new("task-load", ends);
    report.measure("ours_tasks_per_s", per_second);
    report.measure("ours_hit_rate", hits as f64 / ends as f64);
    report.measure("ours_parked_share", parked / ends as f64);
    report.durations("ours", &all);
    report.measure("ours_p99_ms", percentile(&all, 99).as_secs_f64() * 1000.0);
    report.measure("ours_reuse_tasks_per_s", shared);
    report.measure("docker_tasks_per_s", docker);
    report.measure("ratio_docker", per_second / docker);
    for function in functions.iter().chain(&sharing) {
        world.peer.remove(&function.image).await;
    }
    Ok(report)
}

/// Every task's time, and that of all.
async fn load(
    world: &mut World,
    functions: &[Function],
    duration: Duration,
) -> Result<(Vec<(TaskId, Duration)>, Duration)> {
    let mut zipf = Zipf::new(FUNCTIONS);
    let mut sent: HashMap<_, Instant> = HashMap::new();
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < duration || !sent.is_empty() {
        while sent.len() < OUTSTANDING && began.elapsed() < duration {
            sent.insert(world.send(&functions[zipf.next()]).await?, Instant::now());
        }
        let id = world.next_end().await?;
        let Some(at) = sent.remove(&id) else { continue };
        times.push((id, at.elapsed()));
    }
    Ok((times, began.elapsed()))
}

/// The most that `docker run` does per second, with every image there.
async fn peer(world: &World, functions: &[Function]) -> Result<f64> {
    for function in functions {
        world.peer.pull(&function.image).await?;
    }
    let mut best = 0.0_f64;
    for concurrency in PEER_CONCURRENCY {
        let began = Instant::now();
        let runs = (0..concurrency).map(|first| async move {
            let (mut done, mut zipf) = (0_usize, Zipf::new(FUNCTIONS));
            zipf.state += first as u64;
            while began.elapsed() < PEER_DURATION {
                world.peer.run(&functions[zipf.next()].image).await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
        let done: usize = futures::future::try_join_all(runs).await?.into_iter().sum();
        best = best.max(done as f64 / began.elapsed().as_secs_f64());
    }
    for function in functions {
        world.peer.remove(&function.image).await;
    }
    Ok(best)
}

/// The n-th of them comes 1/n as often as the first. The same order in each run.
struct Zipf {
    weights: Vec<f64>,
    state: u64,
}

impl Zipf {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let weights = (1..=count)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        Self { weights, state: 0x2545_F491_4F6C_DD1D }
    }

    fn next(&mut self) -> usize {
        // xorshift64
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let last = self.weights.last().copied().unwrap_or(1.0);
        let point = (self.state >> 11) as f64 / (1_u64 << 53) as f64 * last;
        self.weights.partition_point(|weight| *weight < point).min(self.weights.len() - 1)
    }
}
