//! Fifty functions with five sets of requirements at once, two replicas of the builder: how often something is
//! installed, and how much longer it takes than the five builds alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mecapy_builder::{BuildLog, Builder, Options, Replicas, Request};
use mecapy_engine::Engine;
use mecapy_proto::{FunctionId, Owner};
use mecapy_registry::Registry;
use mecapy_service::Secret;
use mecapy_testkit::{Infra, unique};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::report::Report;

const FUNCTIONS: usize = 50;
/// Each round has two versions of each that are alike: one for the five alone, one for the fifty.
const ROUNDS: [[[&str; 5]; 2]; 3] = [
    [
        ["numpy==2.2.0", "requests==2.32.2", "pandas==2.2.2", "sympy==1.13.1", "networkx==3.3"],
        ["numpy==2.2.1", "requests==2.32.3", "pandas==2.2.3", "sympy==1.13.2", "networkx==3.4.1"],
    ],
    [
        ["numpy==2.2.2", "requests==2.31.0", "pandas==2.2.0", "sympy==1.13.3", "networkx==3.4.2"],
        ["numpy==2.2.3", "requests==2.30.0", "pandas==2.2.1", "sympy==1.13.0", "networkx==3.4"],
    ],
    [
        ["numpy==2.2.4", "requests==2.29.0", "pandas==2.1.4", "sympy==1.12.1", "networkx==3.2.1"],
        ["numpy==2.2.5", "requests==2.28.2", "pandas==2.1.3", "sympy==1.12", "networkx==3.2"],
    ],
];

#[derive(Clone)]
struct Replica {
    builder: Arc<Builder>,
    installed: Arc<AtomicUsize>,
    owner: Owner,
}

impl Replica {
    async fn build(&self, number: usize, requirements: &str) -> Result<()> {
        let request = Request {
            function_id: FunctionId::new(i64::try_from(number)? + 1)?,
            owner: self.owner.clone(),
            version: 1,
            python: "3.11".to_owned(),
            variant: "slim".to_owned(),
            code: format!("print({number})\n").into(),
            requirements: requirements.to_owned(),
        };
        let installed = Arc::clone(&self.installed);
        let live = Box::new(move |line: &str| {
            installed.fetch_add(usize::from(line.starts_with("installing ")), Ordering::Relaxed);
        });
        let log = BuildLog::new(1 << 20, Vec::new(), live);
        let built = self.builder.build(&request, &log, &CancellationToken::new()).await;
        built.map(drop).with_context(|| log.text())
    }
}

pub async fn measure() -> Result<Report> {
    let infra = Infra::shared().await;
    mecapy_e2e::push_base_image(&infra.primary()).await?;
    let postgres =
        mecapy_store::Options { url: infra.postgres().await, ..mecapy_store::Options::default() };
    let pool = mecapy_store::connect(&postgres).await?;
    mecapy_store::migrate(&pool).await?;
    let primary = infra.primary();
    let registry = Registry::new(&mecapy_registry::Options {
        host: primary.host.clone(),
        username: Some(primary.username.clone()),
        password: Some(Secret::new(primary.password.clone())),
        plain_http: true,
        ..mecapy_registry::Options::default()
    })?;
    let engine = mecapy_engine::Options {
        host: std::env::var("DOCKER_HOST").ok(),
        ..mecapy_engine::Options::default()
    };
    let engine = Engine::connect(&engine).await?;
    let installed = Arc::new(AtomicUsize::new(0));
    let replica = || -> Result<Replica> {
        let options = Options { ca_bundle: ca_bundle(), ..Options::default() };
        let replicas = Some(Replicas::new(pool.clone()));
        let builder =
            Builder::new(options, engine.clone(), registry.clone(), registry.clone(), replicas)?;
        Ok(Replica {
            builder: Arc::new(builder),
            installed: Arc::clone(&installed),
            owner: unique("bench").replace('_', "-").parse()?,
        })
    };
    let replicas = [replica()?, replica()?];
    // The network of each one's builds is there before anything is measured.
    all(&replicas, 2, &["six==1.16.0", "toolz==1.0.0"]).await?;

    let (mut dependency_builds, mut alone, mut many) = (0, Duration::ZERO, Duration::ZERO);
    for [five, fifty] in ROUNDS {
        alone += all(&replicas, five.len(), &five).await?;
        let before = installed.load(Ordering::Relaxed);
        many += all(&replicas, FUNCTIONS, &fifty).await?;
        dependency_builds = dependency_builds.max(installed.load(Ordering::Relaxed) - before);
    }
    for replica in &replicas {
        replica.builder.finish().await;
    }

    let rounds = ROUNDS.len() as f64;
    let mut report = Report::new("build-many", ROUNDS.len());
    report.measure("ours_dependency_builds", dependency_builds as f64);
    report.measure("ours_total_s", many.as_secs_f64() / rounds);
    report.measure("ours_five_alone_s", alone.as_secs_f64() / rounds);
    report.measure("ratio_five_alone", many.as_secs_f64() / alone.as_secs_f64());
    Ok(report)
}

/// So many functions at once, each with one of these, in turn on the replicas.
async fn all(replicas: &[Replica; 2], functions: usize, requirements: &[&str]) -> Result<Duration> {
    let began = Instant::now();
    let mut builds = JoinSet::new();
    for number in 0..functions {
        // Those with the same requirements come to both, since their number is odd.
        let replica = replicas[number % 2].clone();
        let requirements = requirements[number % requirements.len()].to_owned();
        builds.spawn(async move { replica.build(number, &requirements).await });
    }
    while let Some(built) = builds.join_next().await {
        built??;
    }
    Ok(began.elapsed())
}

fn ca_bundle() -> Option<PathBuf> {
    ["MECAPY_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT"]
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from)
        .find(|path| path.is_file())
}
