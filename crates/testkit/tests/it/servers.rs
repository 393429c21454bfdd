use std::time::Duration;

use async_nats::jetstream::{self, stream};
use mecapy_testkit::{Infra, Nats, RegistryServer, Server, eventually, unique};
use reqwest::StatusCode;
use sqlx::{Connection, PgConnection};

async fn jetstream(nats: &Nats) -> jetstream::Context {
    let options = async_nats::ConnectOptions::with_user_and_password(
        nats.user.clone(),
        nats.password.clone(),
    );
    jetstream::new(options.connect(&nats.url).await.unwrap())
}

async fn add_stream(nats: &Nats) {
    let config = stream::Config {
        name: "EVENTS".into(),
        subjects: vec!["event.>".into()],
        ..Default::default()
    };
    jetstream(nats).await.create_stream(config).await.unwrap();
}

async fn has_stream(nats: &Nats) -> bool {
    jetstream(nats).await.get_stream("EVENTS").await.is_ok()
}

fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

async fn get(registry: &RegistryServer, password: &str) -> StatusCode {
    http()
        .get(format!("http://{}/v2/", registry.host))
        .basic_auth(&registry.username, Some(password))
        .send()
        .await
        .unwrap()
        .status()
}

#[tokio::test]
async fn an_account_does_not_see_the_streams_of_another() {
    let infra = Infra::shared().await;
    let (one, other) = (infra.nats().await, infra.nats().await);
    add_stream(&one).await;
    assert!(has_stream(&one).await);
    assert!(!has_stream(&other).await);
}

#[tokio::test]
async fn each_database_is_new_and_empty() {
    let infra = Infra::shared().await;
    let (one, other) = (infra.postgres().await, infra.postgres().await);
    let mut one = PgConnection::connect(&one).await.unwrap();
    let mut other = PgConnection::connect(&other).await.unwrap();
    for database in [&mut one, &mut other] {
        sqlx::query("CREATE TABLE first (id int)").execute(database).await.unwrap();
    }
}

#[tokio::test]
async fn the_registries_ask_for_the_password() {
    let infra = Infra::shared().await;
    for registry in [infra.primary(), infra.fallback()] {
        assert_eq!(get(&registry, "wrong").await, StatusCode::UNAUTHORIZED);
        assert_eq!(get(&registry, &registry.password).await, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_set_can_have_registries_that_ask_nobody() {
    let infra = Infra::start_open(&[Server::Primary]).await;
    let answer = http().get(format!("http://{}/v2/_catalog", infra.primary().host)).send().await;
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn each_bucket_is_there_and_its_own() {
    let infra = Infra::shared().await;
    let (one, other) = (infra.s3().await, infra.s3().await);
    assert_ne!(one.bucket, other.bucket);
    // Unsigned: refused, which shows that the server checks signatures.
    let url = format!("{}/{}", one.endpoint, one.bucket);
    let status = http().get(url).send().await.unwrap().status();
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_stopped_server_comes_back_on_its_port_with_what_it_stored() {
    let infra = Infra::start(&[Server::Nats, Server::Postgres]).await;
    let (nats, database) = (infra.nats().await, infra.postgres().await);
    add_stream(&nats).await;
    infra.stop(Server::Nats).await;
    infra.stop(Server::Postgres).await;
    assert!(PgConnection::connect(&database).await.is_err());
    infra.resume(Server::Postgres).await;
    infra.resume(Server::Nats).await;
    assert!(has_stream(&nats).await);
    PgConnection::connect(&database).await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "not within 20ms: the moon")]
async fn what_never_comes_is_named() {
    eventually("the moon", Duration::from_millis(20), async || None::<()>).await;
}

#[test]
fn unique_names_differ_and_fit_everywhere() {
    let (one, other) = (unique("a"), unique("a"));
    assert_ne!(one, other);
    assert!(one.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
}
