//! A night's cleanup of a registry of 1,247 images, of which 110 go: inventory, plan and apply, beside a loop of
//! `skopeo list-tags`, `inspect` and `delete` over a sample, scaled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_bus::{Bus, Delivery, Handler as _, topology};
use mecapy_janitor::{Janitor, Options};
use mecapy_objects::Objects;
use mecapy_proto::v1::CleanupRequested;
use mecapy_registry::{DistributionInventory, Manifest, Registry, media_types};
use mecapy_service::Secret;
use mecapy_store::{PgPool, cleanup_runs};
use mecapy_testkit::{Infra, RegistryServer, Server};
use tokio::process::Command;

use crate::report::Report;

const FUNCTIONS: usize = 115;
const VERSIONS: usize = 10;
const BASES: usize = 12;
const SYSTEM: usize = 85;
const IMAGES: usize = FUNCTIONS * VERSIONS + BASES + SYSTEM;
const REPOSITORIES: usize = FUNCTIONS + 1 + 5;
/// The oldest version of so many functions was not used for 90 days.
const UNUSED: usize = 110;
/// What skopeo is given, and how much of it is deleted: as in the whole.
const SAMPLE: usize = 100;
const SAMPLE_DELETED: usize = 9;
const AT_ONCE: usize = 8;

pub async fn measure() -> Result<Report> {
    let infra = Infra::start(&[Server::Postgres, Server::Primary, Server::S3, Server::Nats]).await;
    let postgres = mecapy_store::Options { url: infra.postgres().await, ..Default::default() };
    let pool = mecapy_store::connect(&postgres).await?;
    mecapy_store::migrate(&pool).await?;
    let server = infra.primary();
    let registry = registry(&server)?;
    fill(&registry, &pool).await?;
    let janitor = janitor(&infra, &pool, &registry).await?;

    // The first look at a registry reads every manifest. What it saw is new to it, so it is set back by 200 days: then
    // comes the night that is measured, inventory, plan and apply.
    let first = run(&janitor, "first", true).await?;
    sqlx::query("update registry_images set first_seen_at = now() - interval '200 days'")
        .execute(&pool)
        .await?;
    let night = run(&janitor, "night", false).await?;
    let done = cleanup_runs::get(&pool, "night").await?.context("no run")?;
    ensure!(done.images_seen == IMAGES as i64, "{done:?}");
    let deleted: i64 =
        sqlx::query_scalar("select count(*) from cleanup_items where state = 'done'")
            .fetch_one(&pool)
            .await?;
    ensure!(deleted == UNUSED as i64, "{deleted} were deleted: {done:?}");

    let mut report = Report::new("cleanup", 1);
    let total = millis(night);
    report.measure("ours_total_ms", total);
    report.measure("ours_first_plan_ms", millis(first));
    match skopeo(&server).await {
        Ok(scaled) => {
            report.measure("skopeo_total_ms_scaled", millis(scaled));
            report.measure("ratio_skopeo", total / millis(scaled));
        }
        Err(error) => {
            for name in ["skopeo_total_ms_scaled", "ratio_skopeo"] {
                report.not_measured(name, &format!("{error:#}"));
            }
        }
    }
    Ok(report)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn registry(server: &RegistryServer) -> Result<Registry> {
    Ok(Registry::new(&mecapy_registry::Options {
        host: server.host.clone(),
        plain_http: true,
        username: Some(server.username.clone()),
        password: Some(Secret::new(server.password.clone())),
        ..Default::default()
    })?)
}

async fn janitor(infra: &Infra, pool: &PgPool, registry: &Registry) -> Result<Janitor> {
    let s3 = infra.s3().await;
    let objects = Objects::new(&mecapy_objects::Options {
        endpoint: Some(s3.endpoint),
        region: s3.region,
        bucket: s3.bucket,
        access_key: s3.access_key,
        secret_key: Secret::new(s3.secret_key),
    });
    objects.ensure_bucket().await?;
    let nats = infra.nats().await;
    let nats = mecapy_bus::Options {
        url: nats.url,
        user: Some(nats.user),
        password: Some(Secret::new(nats.password)),
    };
    let bus = Bus::connect_now("bench", &nats).await?;
    topology::setup(&bus, &topology::Setup::default()).await?;
    Ok(Janitor {
        pool: pool.clone(),
        bus,
        inventory: Arc::new(DistributionInventory::new(registry.clone())),
        primary: registry.clone(),
        fallback: None,
        objects,
        options: Options::default(),
        hosts: vec![registry.host().to_owned()],
    })
}

async fn run(janitor: &Janitor, run: &str, dry_run: bool) -> Result<Duration> {
    let event = CleanupRequested { run_id: run.to_owned(), dry_run, ..Default::default() };
    let delivery = Delivery::new(run, 1, Default::default());
    let began = Instant::now();
    let outcome =
        janitor.handle(event, &delivery).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut transaction = janitor.pool.begin().await?;
    outcome.apply(&mut transaction).await?;
    transaction.commit().await?;
    Ok(began.elapsed())
}

fn function(number: usize) -> String {
    format!("mecapy/functions/user-acme-func-{number}")
}

/// The images, and the records of those that are functions'.
async fn fill(registry: &Registry, pool: &PgPool) -> Result<()> {
    let mut images = Vec::with_capacity(IMAGES);
    for number in 1..=FUNCTIONS {
        images.extend(
            (1..=VERSIONS).map(|version| (function(number), format!("v{version}-0a1b2c3d"))),
        );
    }
    images.extend((0..BASES).map(|n| ("mecapy/base/python".to_owned(), format!("3.{n}-slim"))));
    images.extend((0..SYSTEM).map(|n| (format!("system/part-{}", n % 5), format!("1.{n}"))));
    sqlx::query(
        "insert into functions (owner, name) select 'acme', 'f' || n from generate_series(1, $1) n",
    )
    .bind(FUNCTIONS as i32)
    .execute(pool)
    .await?;
    let digests: Vec<(String, String, String)> = stream::iter(images)
        .map(|(repository, tag)| async move {
            let digest = push(registry, &repository, &tag).await?;
            anyhow::Ok((repository, tag, digest))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    for (repository, tag, digest) in digests {
        let Some(number) =
            repository.rsplit("-func-").next().and_then(|id| id.parse::<usize>().ok())
        else {
            continue;
        };
        let version: usize = tag[1..].split('-').next().unwrap_or_default().parse()?;
        let days = if version == 1 && number <= UNUSED { 100 } else { 10 };
        record(pool, number, version, &digest, &tag, days).await?;
    }
    Ok(())
}

async fn record(
    pool: &PgPool,
    number: usize,
    version: usize,
    digest: &str,
    tag: &str,
    days: i32,
) -> Result<()> {
    let (number, version) = (number as i64, version as i32);
    sqlx::query(
        "with v as (insert into versions (function_id, version, python_version, base_variant, requirements, inputs_sha256)
             values ($1, $2, '3.11', 'slim', '', $2::text)),
         b as (insert into builds (id, function_id, version, state, digest, tag, docker_image, ended_at)
             values (gen_random_uuid(), $1, $2, 'ready', $3, $4, $4, now() - make_interval(days => $5)) returning id)
         update functions set current_build = (select id from b) where id = $1 and $2 = 10",
    )
    .bind(number)
    .bind(version)
    .bind(digest)
    .bind(tag)
    .bind(days)
    .execute(pool)
    .await?;
    Ok(())
}

/// An image as functions have it: layers that all share, and a small one of its own.
async fn push(registry: &Registry, repository: &str, tag: &str) -> Result<String> {
    let mut layers = Vec::new();
    for shared in 0..3 {
        layers.push(registry.put_blob(repository, Bytes::from(vec![shared; 4096])).await?);
    }
    let own = format!("{repository}:{tag}");
    layers.push(registry.put_blob(repository, Bytes::from(own.clone())).await?);
    let config = registry.put_blob(repository, Bytes::from(format!("{{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[]}},\"x\":\"{own}\"}}"))).await?;
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let raw = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_types::OCI_MANIFEST,
        "config": { "mediaType": media_types::OCI_CONFIG, "digest": config.digest, "size": config.size },
        "layers": layers.iter().map(|l| serde_json::json!({ "mediaType": layer, "digest": l.digest, "size": l.size }))
            .collect::<Vec<_>>(),
    });
    let manifest = Manifest::new(Bytes::from(raw.to_string()), media_types::OCI_MANIFEST);
    registry.put_manifest(repository, tag, &manifest).await?;
    Ok(manifest.digest.to_string())
}

/// The peer, as scripts have it: list each repository, inspect each tag, delete what is old. Over functions of
/// which each has nine versions left.
async fn skopeo(server: &RegistryServer) -> Result<Duration> {
    let credentials = format!("{}:{}", server.username, server.password);
    let call = async |arguments: &[&str]| {
        let mut command = Command::new("skopeo");
        command.args(arguments).args(["--tls-verify=false", "--creds", &credentials]);
        let done = command.output().await.context("skopeo is not installed: apt install skopeo")?;
        ensure!(
            done.status.success(),
            "skopeo {}: {}",
            arguments[0],
            String::from_utf8_lossy(&done.stderr)
        );
        anyhow::Ok(())
    };
    let image = |repository: usize, tag: &str| {
        format!("docker://{}/{}{tag}", server.host, function(repository + 1))
    };
    let sampled = SAMPLE.div_ceil(VERSIONS - 1);
    let began = Instant::now();
    for repository in 0..sampled {
        call(&["list-tags", &image(repository, "")]).await?;
    }
    let listed = began.elapsed().mul_f64(REPOSITORIES as f64 / sampled as f64);
    let versions = (0..sampled)
        .flat_map(|repository| (2..=VERSIONS).map(move |version| (repository, version)));
    let began = Instant::now();
    for (repository, version) in versions.take(SAMPLE) {
        call(&["inspect", &image(repository, &format!(":v{version}-0a1b2c3d"))]).await?;
    }
    let inspected = began.elapsed().mul_f64(IMAGES as f64 / SAMPLE as f64);
    let began = Instant::now();
    for repository in 0..SAMPLE_DELETED {
        call(&["delete", &image(repository, ":v2-0a1b2c3d")]).await?;
    }
    let deleted = began.elapsed().mul_f64(UNUSED as f64 / SAMPLE_DELETED as f64);
    Ok(listed + inspected + deleted)
}
