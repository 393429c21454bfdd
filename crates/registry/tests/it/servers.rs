//! The two real registries of this test process.

use mecapy_registry::{Digest, Options, Registry};
use mecapy_service::Secret;
use mecapy_testkit::{Infra, RegistryServer, Server};
use tokio::sync::OnceCell;

async fn infra() -> &'static Infra {
    static INFRA: OnceCell<Infra> = OnceCell::const_new();
    INFRA.get_or_init(|| Infra::start(&[Server::Primary, Server::Fallback])).await
}

pub async fn primary_server() -> RegistryServer {
    infra().await.primary()
}

pub async fn fallback_server() -> RegistryServer {
    infra().await.fallback()
}

pub async fn primary() -> Registry {
    Registry::new(&options(infra().await.primary())).unwrap()
}

pub async fn fallback() -> Registry {
    Registry::new(&options(infra().await.fallback())).unwrap()
}

pub fn options(server: RegistryServer) -> Options {
    Options {
        host: server.host,
        username: Some(server.username),
        password: Some(Secret::new(server.password)),
        plain_http: true,
        ..Options::default()
    }
}

/// From the primary, as when a registry was tidied up or lost something.
pub async fn delete_blob(repository: &str, digest: &Digest) {
    let server = primary_server().await;
    let url = format!("http://{}/v2/{repository}/blobs/{digest}", server.host);
    let request = reqwest::Client::new().delete(url);
    let answer = request.basic_auth(server.username, Some(server.password)).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
}
