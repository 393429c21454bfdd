//! Registries that are down, busy, or somewhere else than their name says.

use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use mecapy_registry::{Error, Options, Registry};
use mecapy_testkit::unique;
use tokio::net::TcpSocket;

use crate::fake::{Fake, answer, status};
use crate::images::noise;
use crate::servers::{options, primary_server};

#[tokio::test]
async fn a_refused_connection_is_transient() {
    // Bound and not listened on: refused for as long as it is held.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let host = socket.local_addr().unwrap().to_string();
    let options = Options { host: host.clone(), plain_http: true, ..Options::default() };
    let error = Registry::new(&options).unwrap().ping().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.is_transient() && !error.is_unauthorized());
    assert!(error.to_string().contains(&host));
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_when_it_said() {
    let fake = Fake::start(|asked| match (asked.path.as_str(), asked.before) {
        ("/v2/", _) => status(StatusCode::OK),
        (_, 0) => answer(StatusCode::TOO_MANY_REQUESTS, &[("retry-after", "1")], ""),
        (_, 1) => status(StatusCode::BAD_GATEWAY),
        _ => answer(StatusCode::OK, &[], r#"{"tags":["v1"]}"#),
    })
    .await;
    let started = Instant::now();
    assert_eq!(fake.registry().tags("a").await.unwrap(), ["v1"]);
    assert!(started.elapsed() >= Duration::from_secs(1), "it did not wait as long as asked");
    assert_eq!(fake.count(Method::GET, "/v2/a/tags/list?n=1000"), 3);
}

#[tokio::test]
async fn a_wait_too_long_for_us_is_handed_to_the_caller() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        _ => answer(StatusCode::SERVICE_UNAVAILABLE, &[("retry-after", "3600")], "tired"),
    })
    .await;
    let error = fake.registry().tags("a").await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert!(error.to_string().contains("tired"), "{error}");
    assert_eq!(fake.count(Method::GET, "/v2/a/tags/list?n=1000"), 1);
}

#[tokio::test]
async fn a_limit_that_is_told_in_words_is_kept() {
    let fake = Fake::start(|asked| match (asked.path.as_str(), asked.before) {
        ("/v2/", _) => status(StatusCode::OK),
        (_, 0) => answer(
            StatusCode::TOO_MANY_REQUESTS,
            &[],
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 1.2s, allowed: 44000/minute"}]}"#,
        ),
        _ => answer(StatusCode::OK, &[], r#"{"tags":["v1"]}"#),
    })
    .await;
    let started = Instant::now();
    assert_eq!(fake.registry().tags("a").await.unwrap(), ["v1"]);
    assert!(started.elapsed() >= Duration::from_millis(1_200), "it did not wait as long as asked");
}

#[tokio::test]
async fn a_secondary_limit_is_not_taken_for_missing_rights() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        _ => answer(StatusCode::FORBIDDEN, &[], "You have exceeded a secondary rate limit."),
    })
    .await;
    let error = fake.registry().tags("a").await.unwrap_err();
    assert!(error.is_transient() && !error.is_unauthorized(), "{error}");
    // Too long for us: whoever asked comes again.
    assert_eq!(error.retry_after(), Some(Duration::from_secs(60)));
    assert_eq!(fake.count(Method::GET, "/v2/a/tags/list?n=1000"), 1);
}

#[tokio::test]
async fn an_answer_that_will_not_change_is_not_asked_for_again() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        _ => answer(
            StatusCode::FORBIDDEN,
            &[],
            r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#,
        ),
    })
    .await;
    let error = fake.registry().tags("a").await.unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
    assert!(error.to_string().contains("DENIED requested access is denied"), "{error}");
    assert_eq!(fake.count(Method::GET, "/v2/a/tags/list?n=1000"), 1);
}

#[tokio::test]
async fn a_registry_is_reached_by_its_endpoint_and_known_by_its_name() {
    let server = primary_server().await;
    let endpoint = Some(format!("http://{}", server.host).parse().unwrap());
    let named = Options { host: "registry.example:5000".into(), endpoint, ..options(server) };
    let registry = Registry::new(&named).unwrap();
    let repository = unique("reach");
    let content = noise(&repository, 1000);
    let blob = registry.put_blob(&repository, content.clone()).await.unwrap();
    assert_eq!(registry.blob_bytes(&repository, &blob, 1000).await.unwrap(), content);
    assert_eq!(registry.host(), "registry.example:5000");
}
