//! The console's pages over a hundred thousand functions and a million tasks, and two hundred browsers that follow it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use mecapy_e2e::{Service, System};
use mecapy_testkit::{Infra, Server};
use sqlx::PgPool;

use crate::report::{Report, percentile};

const RUNS: usize = 100;
const BROWSERS: usize = 200;
/// Longer than the overview's figures are shown without a look.
const APART: Duration = Duration::from_millis(100);

/// A thousand owners; each function has a ready build with its scan, and the tasks of the last day go to them by turns:
/// one in a hundred failed. Three years of weekly base images; one function in a hundred of the last tenth stands on an
/// older one, which is one of 26.
const GENERATE: &[&str] = &[
    "insert into functions (owner, name) select 'owner' || n % 1000, 'f' || n from generate_series(1, 100000) n",
    "insert into versions (function_id, version, python_version, base_variant, requirements, inputs_sha256)
     select id, 1, '3.1' || 1 + id % 2, (array['slim', 'numpy', 'scipy'])[1 + id / 2 % 3], 'numpy==1.26.0', id::text
     from functions",
    "insert into base_runs (id, reason, requested_at, ended_at)
     select 'base-' || n, 'schedule', t, t + interval '5 min'
     from generate_series(0, 155) n, lateral (select now() - n * interval '7 d' as t) at",
    "insert into builds (id, base, base_run, state, digest, tag, docker_image, size_bytes, requested_at, started_at, ended_at)
     select gen_random_uuid(), base, r.id, 'ready', 'sha256:' || lpad(to_hex(1 + substr(r.id, 6)::int), 64, '0'), 't',
         'registry/base', 50000000, requested_at, requested_at, ended_at
     from base_runs r, unnest(array['3.11-slim', '3.11-numpy', '3.11-scipy', '3.12-slim', '3.12-numpy', '3.12-scipy']) base",
    "insert into builds (id, function_id, version, base_digest, state, digest, tag, docker_image, size_bytes, log_key,
         requested_at, started_at, built_at, scanned_at, ended_at)
     select gen_random_uuid(), id, 1,
         'sha256:' || lpad(to_hex(case when id > 90000 and id % 100 = 0 then 2 + id / 100 % 26 else 1 end), 64, '0'),
         'ready', 'sha256:' || lpad(to_hex(id), 64, '0'), 'v1-0a1b2c3d',
         'registry/mecapy/functions/user-acme-func-' || id || ':v1-0a1b2c3d@sha256:' || lpad(to_hex(id), 64, '0'),
         200000000, 'logs/none', t, t + interval '1 s', t + interval '5 s', t + interval '6 s', t + interval '8 s'
     from functions, lateral (select now() - id * interval '0.3 s' as t) at",
    "insert into scans (build_id, digest, engine, engine_version, database_version, database_partial, verdict, critical,
         high, medium, low, unknown, findings, report_key, sbom_key, duration_ms)
     select id, digest, 'osv', '1', '1', false, 'PASSED', 0, 1, 0, 1, 0,
         '[{\"id\": \"CVE-2023-1234\", \"package\": \"numpy\", \"installedVersion\": \"1.26.0\", \"severity\": \"HIGH\"}]',
         'r', 's', 10
     from builds where function_id is not null",
    "update functions f set current_build = b.id, docker_image = b.docker_image from builds b where b.function_id = f.id",
    "insert into tasks (id, function_id, state, attempt, worker, cache, timings, created_at, started_at, ended_at)
     select gen_random_uuid(), 1 + n % 100000, case when n % 100 = 0 then 'failed' else 'succeeded' end, 1, 'one',
         case when n % 5000 = 0 then 'FAILOVER' else 'HIT' end,
         '{\"queuedMs\": \"3\", \"fetchMs\": \"0\", \"startMs\": \"5\", \"runMs\": \"12\", \"storeMs\": \"2\"}',
         t, t + interval '8 ms', t + interval '25 ms'
     from generate_series(1, 1000000) n, lateral (select now() - n * interval '0.0864 s' as t) at",
    "analyze",
];

pub async fn measure() -> Result<Report> {
    let infra = Infra::start(&Server::ALL).await;
    let system = System::set_up(&infra, "").await?;
    generate(&system.pool).await?;
    system.spawn(Service::Gateway)?;
    system.ready(Service::Gateway).await;
    let browser = Browser::log_in(&system).await?;

    let mut report = Report::new("console", RUNS);
    let task: String =
        sqlx::query_scalar("select id::text from tasks order by created_at limit 1 offset 500000")
            .fetch_one(&system.pool)
            .await?;
    for (name, path) in [
        ("overview", "/console".to_owned()),
        ("functions", "/console/functions?page_token=50000".to_owned()),
        ("function", "/console/functions/50000".to_owned()),
        ("tasks", "/console/tasks?state=failed".to_owned()),
        ("task", format!("/console/tasks/{task}")),
        ("bases", "/console/bases".to_owned()),
        ("stale", "/console/bases/stale".to_owned()),
    ] {
        let mut times = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let began = Instant::now();
            browser.see(&path).await?;
            times.push(began.elapsed());
            if name == "overview" {
                tokio::time::sleep(APART).await;
            }
        }
        report.measure(&format!("ours_{name}_p50_ms"), ms(percentile(&times, 50)));
        report.measure(&format!("ours_{name}_p95_ms"), ms(percentile(&times, 95)));
    }
    let before = system.resident_kib(Service::Gateway)?;
    let mut streams = Vec::with_capacity(BROWSERS);
    for _ in 0..BROWSERS {
        let answer = browser.open("/console/events").await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        streams.push(answer.bytes_stream());
    }
    // Each has said something.
    for stream in &mut streams {
        stream.next().await.context("a stream ended")??;
    }
    let after = system.resident_kib(Service::Gateway)?;
    report.measure("ours_200_streams_mib", after.saturating_sub(before) as f64 / 1024.0);
    Ok(report)
}

async fn generate(pool: &PgPool) -> Result<()> {
    for statement in GENERATE {
        sqlx::query(*statement).execute(pool).await?;
    }
    // As autovacuum leaves it.
    sqlx::query("vacuum").execute(pool).await?;
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

struct Browser {
    url: String,
    cookie: String,
    http: reqwest::Client,
}

impl Browser {
    async fn log_in(system: &System) -> Result<Self> {
        let policy = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().no_proxy().redirect(policy).build()?;
        let url = system.api.url.clone();
        let answer = http
            .post(format!("{url}/console/login"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("token={}", system.api.token))
            .send()
            .await?;
        let cookie = answer.headers().get("set-cookie").context("no cookie")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        Ok(Self { url, cookie, http })
    }

    async fn open(&self, path: &str) -> Result<reqwest::Response> {
        let request = self.http.get(format!("{}{path}", self.url)).header("cookie", &self.cookie);
        Ok(request.send().await?)
    }

    /// The whole page.
    async fn see(&self, path: &str) -> Result<()> {
        let answer = self.open(path).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        let page = answer.text().await?;
        ensure!(page.ends_with("</html>"), "{path}: {page}");
        Ok(())
    }
}
