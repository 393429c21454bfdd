//! The hundred most used images of a week, out of fifty million tasks of ninety days.

use std::time::Instant;

use anyhow::{Result, ensure};
use mecapy_store::mirror_choice;
use mecapy_testkit::{Infra, Server};

use crate::report::Report;

const RUNS: usize = 30;

/// 10,000 functions of one version each, used every day, a few of them most of all (as the inverse of their rank). The
/// rows come day after day, as they do where tasks end.
const GENERATE: &[&str] = &[
    "insert into functions (owner, name) select 'acme', 'f' || n from generate_series(1, 10000) n",
    "insert into versions (function_id, version, python_version, base_variant, requirements, inputs_sha256)
     select id, 1, '3.11', 'slim', '', id::text from functions",
    "insert into builds (id, function_id, version, state, digest, tag, docker_image, size_bytes)
     select gen_random_uuid(), id, 1, 'ready', 'sha256:' || lpad(to_hex(id), 64, '0'), 'v1-0a1b2c3d',
         'registry/mecapy/functions/user-acme-func-' || id || ':v1-0a1b2c3d@sha256:' || lpad(to_hex(id), 64, '0'),
         200000000
     from functions",
    "update functions f set current_build = b.id, docker_image = b.docker_image from builds b where b.function_id = f.id",
    "insert into image_usage (day, digest, function_id, tasks)
     select (now() at time zone 'utc')::date - day, 'sha256:' || lpad(to_hex(id), 64, '0'), id, greatest(1, 58000 / id)
     from functions, generate_series(0, 89) day order by day desc, id",
    "analyze",
];

pub async fn measure() -> Result<Report> {
    let infra = Infra::start(&[Server::Postgres]).await;
    let options = mecapy_store::Options { url: infra.postgres().await, ..Default::default() };
    let pool = mecapy_store::connect(&options).await?;
    mecapy_store::migrate(&pool).await?;
    for statement in GENERATE {
        sqlx::query(*statement).execute(&pool).await?;
    }
    let (rows, tasks): (i64, i64) =
        sqlx::query_as("select count(*), sum(tasks)::bigint from image_usage")
            .fetch_one(&pool)
            .await?;
    ensure!(tasks >= 50_000_000, "only {tasks} tasks were generated");
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        let most_used = mirror_choice::most_used(&pool, 7, 100).await?;
        times.push(began.elapsed());
        ensure!(most_used.len() == 100, "{} images", most_used.len());
    }
    let mut report = Report::new("usage", RUNS);
    report.durations("ours", &times);
    report.measure("tasks", tasks as f64);
    report.measure("rows", rows as f64);
    Ok(report)
}
