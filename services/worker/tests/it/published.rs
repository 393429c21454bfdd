//! The registries of the tests, and functions' images in them.

use mecapy_engine::{Credentials, Engine};
use mecapy_proto::FunctionId;
use mecapy_registry::{
    Base, ConfigPatch, Destination, Digest, ImageRef, LayerFile, Options as RegistryOptions,
    ProgressSink, Registry, Source, TarLayer, append_layer, copy_image,
};
use mecapy_service::Secret;
use mecapy_testkit::{Infra, RegistryServer};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::world::LONG;

/// Made by `scripts/images base`.
pub const BASE: &str = "mecapy/base/python:3.11-slim";
pub const BASE_REPOSITORY: &str = "mecapy/base/python";

pub async fn primary() -> RegistryOptions {
    registry_options(Infra::shared().await.primary())
}

pub async fn fallback() -> RegistryOptions {
    registry_options(Infra::shared().await.fallback())
}

pub fn registry_options(server: RegistryServer) -> RegistryOptions {
    RegistryOptions {
        host: server.host,
        username: Some(server.username),
        password: Some(Secret::new(server.password)),
        plain_http: true,
        ..RegistryOptions::default()
    }
}

/// Puts a function's code on the base image, inside the registry, as the builder does; with what is not as usual, which
/// may be files that the base image has and this one has not.
pub async fn push(
    registry: &RegistryOptions,
    repository: &str,
    code: &str,
    id: FunctionId,
    patch: ConfigPatch,
    without: &[&str],
) -> Digest {
    base().await;
    let registry = Registry::new(registry).unwrap();
    let manifest = registry.manifest(BASE_REPOSITORY, "test").await.unwrap();
    let base = Base { repository: BASE_REPOSITORY.to_owned(), manifest };
    // No two functions of all tests are one image.
    let bytes = format!("{code}\n# {repository}\n").into();
    let code = LayerFile { path: "app/user_function.py".to_owned(), mode: 0o444, bytes };
    let whiteouts = without.iter().map(|path| {
        let (folder, name) = path.rsplit_once('/').unwrap();
        LayerFile { path: format!("{folder}/.wh.{name}"), mode: 0o444, bytes: Default::default() }
    });
    let layer = TarLayer::from_files(std::iter::once(code).chain(whiteouts)).unwrap();
    let mut labels = patch.labels;
    labels.insert("org.mecapy.function.id".to_owned(), id.to_string());
    let cmd = Some(vec!["python".to_owned(), "user_function.py".to_owned()]);
    let patch = ConfigPatch { labels, cmd, ..patch };
    append_layer(&registry, &base, repository, "v1", layer, &patch).await.unwrap().digest
}

/// The base image in both registries, once for all tests.
pub async fn base() {
    static PUSHED: OnceCell<()> = OnceCell::const_new();
    PUSHED
        .get_or_init(|| async {
            let (primary, fallback) = (primary().await, fallback().await);
            let options = mecapy_engine::Options {
                host: std::env::var("DOCKER_HOST").ok(),
                ..Default::default()
            };
            let engine = Engine::connect(&options).await.expect("Docker Engine must run");
            let local = engine.image(BASE).await.unwrap();
            assert!(local.is_some(), "the image {BASE} is not there: run scripts/images base");
            let name = ImageRef::new(&primary.host, BASE_REPOSITORY).with_tag("test");
            engine.tag(BASE, &name).await.unwrap();
            let login = Credentials {
                username: primary.username.clone().unwrap(),
                password: primary.password.clone().unwrap(),
            };
            let digest = engine.push(&name, Some(&login), LONG).await.unwrap();
            engine.remove_image(&name.to_string()).await.unwrap();
            let by_digest = format!("{}/{BASE_REPOSITORY}@{digest}", primary.host);
            engine.remove_image(&by_digest).await.unwrap();
            let from = Source {
                registry: Registry::new(&primary).unwrap(),
                repository: BASE_REPOSITORY.to_owned(),
                digest,
            };
            let to = Destination {
                registry: Registry::new(&fallback).unwrap(),
                repository: BASE_REPOSITORY.to_owned(),
                tags: vec!["test".to_owned()],
            };
            copy_image(&from, &to, &ProgressSink::none()).await.unwrap();
        })
        .await;
}

/// The primary under another name for its host, by which a worker sees only the images that have it; and one turn at a
/// time for the tests that do so, since a worker with a small cache puts out what it sees.
pub async fn primary_by_another_name() -> (MutexGuard<'static, ()>, String) {
    static TURN: Mutex<()> = Mutex::const_new(());
    (TURN.lock().await, primary().await.host.replace("127.0.0.1", "localhost"))
}
