//! New requirements: `build.requested` → the image in staging, beside `docker build` with pip and `docker push` of the
//! same files. Each run asks for versions that neither has had, so that both are cold.

use anyhow::Result;

use crate::build_world::World;
use crate::docker_peer::Docker;
use crate::report::{Report, percentile};

const CODE: &str = "import numpy, requests\n";
/// The first of them is for what both do once: the base image in the registry, the network of builds.
const NUMPY: [&str; 6] = ["2.2.0", "2.2.1", "2.2.2", "2.2.3", "2.2.4", "2.2.5"];
const REQUESTS: [&str; 6] = ["2.31.0", "2.32.0", "2.32.1", "2.32.2", "2.32.3", "2.32.4"];
const BASE: &str = "mecapy/python:3.11-slim";
const INSTALL: &str = "python -m pip install --no-cache-dir -r /tmp/requirements.txt";

pub async fn measure() -> Result<Report> {
    let world = World::start().await?;
    let mut docker = Docker::new(&world.system.primary, BASE, INSTALL).await?;
    let (mut our_times, mut docker_times) = (Vec::new(), Vec::new());
    for (numpy, requests) in NUMPY.into_iter().zip(REQUESTS) {
        let requirements = format!("numpy=={numpy}\nrequests=={requests}\n");
        our_times.push(world.version(CODE, &requirements).await?.built);
        docker_times.push(docker.build_and_push(CODE, &requirements).await?);
    }
    docker.remove().await;
    let (our_times, docker_times) = (&our_times[1..], &docker_times[1..]);

    let mut report = Report::new("build-deps", our_times.len());
    report.durations("ours", our_times);
    report.durations("docker", docker_times);
    let ratio =
        percentile(our_times, 50).as_secs_f64() / percentile(docker_times, 50).as_secs_f64();
    report.measure("ratio_docker", ratio);
    Ok(report)
}
