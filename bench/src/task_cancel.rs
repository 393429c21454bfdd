//! How soon a task that runs is over when it is cancelled: `task.cancel` → `task.done`, with its logs kept.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use mecapy_proto::TaskId;
use mecapy_proto::v1::TaskCancel;
use mecapy_store::TaskState;
use serde_json::Value;

use crate::report::Report;
use crate::task_world::{PATIENCE, World, dispatch, until_done};

const RUNS: usize = 20;
/// By itself it would go on for longer than anything is waited for. It says when it runs.
const CODE: &str = "import time\nprint('runs', flush=True)\ntime.sleep(290)\n";

pub async fn measure() -> Result<Report> {
    let world = World::start().await?;
    let function = world.function("task-cancel", CODE, "").await?;
    // What the first task brings: its image, and containers that wait.
    cancelled(&world, &function).await?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        times.push(cancelled(&world, &function).await?);
    }
    let mut report = Report::new("task-cancel", RUNS);
    report.durations("ours_cancel", &times);
    Ok(report)
}

/// From the word to the end, of a task whose function has begun.
async fn cancelled(world: &World, function: &Value) -> Result<Duration> {
    let id = TaskId::new();
    let mut words = Box::pin(world.live().task_log(id).subscribe().await?);
    let mut events = world.events().await?;
    world.send(&dispatch(id, function)?).await?;
    let runs = tokio::time::timeout(PATIENCE, words.next()).await;
    runs.context("the function did not begin")?.context("NATS is gone")?;
    let began = Instant::now();
    world.send(&TaskCancel { task_id: id.to_string() }).await?;
    until_done(id, &mut events).await?;
    let took = began.elapsed();
    let task = mecapy_store::tasks::get(&world.system.pool, id).await?.context("no task")?;
    ensure!(task.state == TaskState::Cancelled, "{task:?}");
    Ok(took)
}
