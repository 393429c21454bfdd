//! Ten thousand published images on two hundred sets of dependencies, against a new database.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use chrono::{Duration, Utc};
use mecapy_advisories::{Database, import};
use mecapy_bus::topology::{self, Setup};
use mecapy_bus::{Bus, Outbox};
use mecapy_scanner::layer::ANALYSER_VERSION;
use mecapy_scanner::policy::{Policies, Policy};
use mecapy_scanner::rematch::{OnRevoked, Rematch};
use mecapy_service::Secret;
use mecapy_store::PgPool;
use mecapy_testkit::{Infra, Server};
use tokio_util::sync::CancellationToken;

use crate::db_open::export;
use crate::report::Report;

const IMAGES: i64 = 10_000;
const SETS: usize = 200;
const PACKAGES_IN_SET: usize = 25;

const FUNCTIONS: &[&str] = &[
    "insert into functions (owner, name) select 'acme', 'f' || n from generate_series(1, $1) n",
    "insert into versions (function_id, version, python_version, base_variant, requirements, inputs_sha256)
     select id, 1, '3.11', 'slim', '', id::text from functions where id <= $1",
    "insert into builds (id, function_id, version, state, digest, tag, docker_image, size_bytes)
     select gen_random_uuid(), id, 1, 'ready', 'sha256:' || lpad(to_hex(id), 64, '0'), 'v1', 'registry/f' || id, 1
     from functions where id <= $1",
    "insert into layer_indexes (layer_digest, analyser_version, contents)
     select 'sha256:c' || lpad(to_hex(n), 63, '0'), 'ANALYSER', '{}' from generate_series(1, $1) n",
    // The base, a set of dependencies, a layer of code.
    "insert into scans (build_id, digest, engine, engine_version, database_version, database_partial, verdict,
         critical, high, medium, low, unknown, findings, report_key, sbom_key, duration_ms, layers)
     select id, digest, 'osv', '0', 'old', false, 'PASSED', 0, 0, 0, 0, 0, '[]', '', '', 1,
         array['sha256:b' || repeat('0', 63), 'sha256:d' || lpad(to_hex(function_id % 200), 63, '0'),
               'sha256:c' || lpad(to_hex(function_id), 63, '0')]
     from builds where function_id <= $1",
];

pub async fn measure() -> Result<Report> {
    mecapy_service::install_tls();
    let infra = Infra::start(&[Server::Nats, Server::Postgres]).await;
    let options = mecapy_store::Options { url: infra.postgres().await, ..Default::default() };
    let pool = mecapy_store::connect(&options).await?;
    mecapy_store::migrate(&pool).await?;
    let account = infra.nats().await;
    let nats = mecapy_bus::Options {
        url: account.url,
        user: Some(account.user),
        password: Some(Secret::new(account.password)),
    };
    let bus = Bus::connect_now("bench", &nats).await?;
    topology::setup(&bus, &Setup::default()).await?;
    let stop = CancellationToken::new();
    let outbox = Outbox::start(bus, pool.clone(), "scanner", stop.clone());

    let database = Arc::new(match export() {
        Some(export) => import(&[export], Vec::new(), Utc::now())?.open()?,
        None => Database::starter()?,
    });
    fill(&pool, &database).await?;
    let rematch = Rematch {
        pool: pool.clone(),
        outbox,
        policies: Policies::new(Policy::default()),
        on_revoked: OnRevoked::Refuse,
    };
    let began = Instant::now();
    let Some(first) = rematch.if_due(&database, Utc::now()).await? else {
        anyhow::bail!("nothing was due");
    };
    let took = began.elapsed();
    // The next day: nothing is news.
    let began = Instant::now();
    let again = rematch.if_due(&database, Utc::now() + Duration::days(1)).await?;
    let quiet = began.elapsed();
    stop.cancel();
    ensure!(i64::from(first.images) == IMAGES && first.unindexed == 0, "{first:?}");
    ensure!(again.is_some_and(|again| again.revoked == 0));

    let mut report = Report::new("rematch", 1);
    report.measure("ours_total_ms", took.as_secs_f64() * 1000.0);
    report.measure("ours_no_news_ms", quiet.as_secs_f64() * 1000.0);
    report.measure("images", f64::from(first.images));
    report.measure("images_revoked", f64::from(first.revoked));
    Ok(report)
}

async fn fill(pool: &PgPool, database: &Database) -> Result<()> {
    for statement in FUNCTIONS {
        let statement = statement.replace("ANALYSER", ANALYSER_VERSION);
        sqlx::query(sqlx::AssertSqlSafe(statement)).bind(IMAGES).execute(pool).await?;
    }
    let base = serde_json::json!({"files": {
        "etc/os-release": {"os_release": {"id": "debian", "version_id": "12", "pretty_name": "Debian 12"}},
        "var/lib/dpkg/status": {"dpkg": (0..110).map(|at| serde_json::json!({
            "name": format!("lib{at}"), "version": "1.0-1", "architecture": "amd64",
            "source": {"name": format!("src{at}"), "version": "1.0-1"},
        })).collect::<Vec<_>>()},
    }});
    index(pool, format!("b{}", "0".repeat(63)), base).await?;
    // Packages that advisories are about, in versions that most of them are not: what a registry holds that was
    // scanned before. One set in fifty has something old in it.
    let names: Vec<String> = database.packages()?.into_iter().map(|(_, name)| name).collect();
    for set in 0..SETS {
        let files: serde_json::Map<String, serde_json::Value> = (0..PACKAGES_IN_SET)
            .map(|at| {
                let name = &names[(set * 31 + at * 57) % names.len()];
                let version = if set % 50 == 0 { "0.1" } else { "9999.0" };
                let path = format!(
                    "opt/venv/lib/python3.11/site-packages/{name}-{version}.dist-info/METADATA"
                );
                (path, serde_json::json!({"python": {"name": name, "version": version}}))
            })
            .collect();
        index(pool, format!("d{set:063x}"), serde_json::json!({ "files": files })).await?;
    }
    sqlx::query("analyze").execute(pool).await?;
    Ok(())
}

async fn index(pool: &PgPool, hex: String, contents: serde_json::Value) -> Result<()> {
    let digest = format!("sha256:{hex}");
    mecapy_store::layers::put(pool, &digest, ANALYSER_VERSION, &contents).await?;
    Ok(())
}
