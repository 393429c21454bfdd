//! What real builds start from: the engine, a registry with the base image, and a builder.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mecapy_builder::{BuildLog, Builder, Built, Error, Options, Replicas, Request};
use mecapy_engine::{Credentials, Engine};
use mecapy_proto::{FunctionId, Owner};
use mecapy_registry::{Content, Digest, ImageRef, Registry};
use mecapy_service::Secret;
use mecapy_store::PgPool;
use mecapy_testkit::{Infra, unique};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// Made by `scripts/images base`.
const LOCAL_BASE: &str = "mecapy/base/python:3.11-slim";
/// Far more than anything here takes: what passes it hangs.
pub const LONG: Duration = Duration::from_secs(300);

pub async fn engine() -> Engine {
    let options =
        mecapy_engine::Options { host: std::env::var("DOCKER_HOST").ok(), ..Default::default() };
    Engine::connect(&options).await.expect("Docker Engine must run")
}

pub fn registry_options(server: &mecapy_testkit::RegistryServer) -> mecapy_registry::Options {
    mecapy_registry::Options {
        host: server.host.clone(),
        username: Some(server.username.clone()),
        password: Some(Secret::new(server.password.clone())),
        plain_http: true,
        ..Default::default()
    }
}

/// The primary registry of the tests, with the base image in it.
pub async fn primary() -> Registry {
    static PUSHED: OnceCell<()> = OnceCell::const_new();
    let options = registry_options(&Infra::shared().await.primary());
    let registry = Registry::new(&options).unwrap();
    PUSHED
        .get_or_init(|| async {
            let engine = engine().await;
            let there = engine.image(LOCAL_BASE).await.unwrap();
            assert!(
                there.is_some(),
                "the image {LOCAL_BASE} is not there: run scripts/images base"
            );
            let reference =
                ImageRef::new(registry.host(), "mecapy/base/python").with_tag("3.11-slim");
            engine.tag(LOCAL_BASE, &reference).await.unwrap();
            engine.push(&reference, credentials(&registry).as_ref(), LONG).await.unwrap();
            engine.remove_image(&reference.to_string()).await.unwrap();
        })
        .await;
    registry
}

pub fn credentials(registry: &Registry) -> Option<Credentials> {
    registry.credentials().map(Credentials::from)
}

/// What this machine needs to reach the package index.
pub fn options() -> Options {
    let variable = |names: &[&str]| {
        names.iter().find_map(|name| std::env::var(name).ok()).filter(|value| !value.is_empty())
    };
    let secret = |names: &[&str]| variable(names).map(Secret::new);
    Options {
        ca_bundle: variable(&[
            "MECAPY_CA_BUNDLE",
            "SSL_CERT_FILE",
            "PIP_CERT",
            "REQUESTS_CA_BUNDLE",
        ])
        .map(PathBuf::from)
        .filter(|path| path.is_file()),
        index_url: secret(&["PIP_INDEX_URL"]),
        http_proxy: secret(&["HTTP_PROXY", "http_proxy"]),
        https_proxy: secret(&["HTTPS_PROXY", "https_proxy"]),
        no_proxy: variable(&["NO_PROXY", "no_proxy"]),
        ..Options::default()
    }
}

pub async fn builder(options: Options) -> Arc<Builder> {
    let primary = primary().await;
    Arc::new(Builder::new(options, engine().await, primary.clone(), primary, None).unwrap())
}

/// One of several that use the same database.
pub async fn replica(options: Options, pool: &PgPool) -> Arc<Builder> {
    let (primary, replicas) = (primary().await, Some(Replicas::new(pool.clone())));
    Arc::new(Builder::new(options, engine().await, primary.clone(), primary, replicas).unwrap())
}

pub async fn database() -> PgPool {
    database_at(Infra::shared().await.postgres().await).await
}

pub async fn database_at(url: String) -> PgPool {
    let options = mecapy_store::Options { url, ..mecapy_store::Options::default() };
    let pool = mecapy_store::connect(&options).await.unwrap();
    mecapy_store::migrate(&pool).await.unwrap();
    pool
}

/// A function that nobody else has.
pub fn request(code: &str, requirements: &str) -> Request {
    Request {
        function_id: FunctionId::new(7).unwrap(),
        owner: owner(),
        version: 1,
        python: "3.11".to_owned(),
        variant: "slim".to_owned(),
        code: Bytes::from(code.to_owned()),
        requirements: requirements.to_owned(),
    }
}

pub fn owner() -> Owner {
    unique("it").replace('_', "-").parse().unwrap()
}

/// A log that is kept, and the lines that were seen live.
pub fn log() -> (BuildLog, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&lines);
    let live = Box::new(move |line: &str| seen.lock().unwrap().push(line.to_owned()));
    (BuildLog::new(1 << 20, Vec::new(), live), lines)
}

/// Builds, and gives the log with it.
pub async fn build(builder: &Arc<Builder>, request: &Request) -> (Result<Built, Error>, String) {
    let (log, _) = log();
    let built = builder.build(request, &log, &CancellationToken::new()).await;
    builder.finish().await;
    (built, log.text())
}

/// The config of an image, as JSON.
pub async fn config(registry: &Registry, image: &ImageRef) -> serde_json::Value {
    let manifest = registry.manifest(&image.repository, &image.reference()).await.unwrap();
    let Content::Image { config, .. } = manifest.parse().unwrap() else {
        panic!("{image} is an index")
    };
    let bytes = registry.blob_bytes(&image.repository, &config, 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Runs a command in an image, without a network, and gives what it printed.
pub async fn run(registry: &Registry, image: &ImageRef, command: &[&str]) -> String {
    let engine = engine().await;
    let by_digest = ImageRef { tag: None, ..image.clone() };
    engine.pull(&by_digest, credentials(registry).as_ref(), LONG).await.unwrap();
    let name = by_digest.to_string();
    let mut arguments =
        vec!["run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", &name];
    arguments.extend(command);
    let output = tokio::process::Command::new("docker").args(&arguments).output().await.unwrap();
    let _ = engine.remove_image(&name).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn digest(image: &ImageRef) -> Digest {
    image.digest.unwrap()
}
