//! A code edit with unchanged requirements: to the image in staging (`build-edit`), and to the published one
//! (`pipeline`), beside `docker build` and `docker push` of the same files to the same registry. In turn, so that both
//! meet the same machine.

use std::time::Duration;

use anyhow::Result;

use crate::build_world::{Times, World};
use crate::docker_peer::Docker;
use crate::report::{Report, percentile};

const RUNS: usize = 30;
const REQUIREMENTS: &str = "requests\n";
const BASE: &str = "mecapy/base/python:3.11-slim";
const INSTALL: &str = "uv pip install --no-cache --only-binary :all: -r /tmp/requirements.txt";

fn code(edit: usize) -> String {
    format!(
        "import json\nimport requests\nwith open('/output.json', 'w') as file:\n    json.dump({edit}, file)\n"
    )
}

/// `build.requested` → `push.done`.
pub async fn measure() -> Result<Report> {
    edits("pipeline", |times| times.published).await
}

/// `build.requested` → `build.done`.
pub async fn measure_build() -> Result<Report> {
    edits("build-edit", |times| times.built).await
}

async fn edits(name: &'static str, measured: fn(Times) -> Duration) -> Result<Report> {
    let world = World::start().await?;
    let mut docker = Docker::new(&world.system.primary, BASE, INSTALL).await?;

    // Once, for the dependencies: what an edit finds.
    world.version(&code(0), REQUIREMENTS).await?;
    docker.build_and_push(&code(0), REQUIREMENTS).await?;

    let (mut our_times, mut docker_times) = (Vec::new(), Vec::new());
    for edit in 1..=RUNS {
        our_times.push(measured(world.version(&code(edit), REQUIREMENTS).await?));
        docker_times.push(docker.build_and_push(&code(edit), REQUIREMENTS).await?);
    }
    docker.remove().await;

    let mut report = Report::new(name, RUNS);
    report.durations("ours", &our_times);
    report.durations("docker", &docker_times);
    let ratio =
        percentile(&our_times, 50).as_secs_f64() / percentile(&docker_times, 50).as_secs_f64();
    report.measure("ratio_docker", ratio);
    Ok(report)
}
