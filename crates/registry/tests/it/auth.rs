use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use mecapy_registry::{Descriptor, Digest, Options, Registry};
use mecapy_service::Secret;
use mecapy_testkit::{eventually, unique};

use crate::fake::{Asked, Fake, answer, status};
use crate::images::noise;
use crate::servers::{options, primary, primary_server};

/// `user:secret`, as the fakes' clients have it.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

#[tokio::test]
async fn right_credentials_are_taken() {
    let registry = primary().await;
    registry.ping().await.unwrap();
    let (username, password) = registry.credentials().unwrap();
    let server = primary_server().await;
    assert_eq!((username, password.expose()), (server.username, server.password.as_str()));
}

#[tokio::test]
async fn a_wrong_password_is_unauthorized_and_shown_nowhere() {
    let server = primary_server().await;
    let wrong = Options { password: Some(Secret::new("wrong-secret")), ..options(server.clone()) };
    let registry = Registry::new(&wrong).unwrap();
    let repository = unique("auth");
    for error in [
        registry.ping().await.unwrap_err(),
        registry.resolve(&repository, "latest").await.unwrap_err(),
        registry.put_blob(&repository, Bytes::from("content")).await.unwrap_err(),
    ] {
        assert!(error.is_unauthorized() && !error.is_transient(), "{error}");
        assert!(error.to_string().contains(&server.host));
        assert!(!format!("{error:?}").contains("wrong-secret"));
    }
    assert!(!format!("{wrong:?}{registry:?}").contains("wrong-secret"));
}

#[tokio::test]
async fn no_credentials_where_some_are_needed_is_unauthorized_and_says_so() {
    let server = options(primary_server().await);
    let anonymous = Options { username: None, password: None, ..server };
    let error = Registry::new(&anonymous).unwrap().ping().await.unwrap_err();
    assert!(error.is_unauthorized(), "{error}");
    assert!(error.to_string().contains("no credentials are configured"), "{error}");
}

#[test]
fn half_a_login_is_a_configuration_error() {
    let username = Some("user".into());
    let half = Options { username, host: "a.example".into(), ..Options::default() };
    assert!(Registry::new(&half).unwrap_err().to_string().contains("no password"));
}

/// A registry with a token service beside it. The service gives out `t0`, `t1`, … for each scope;
/// `takes` says which of them the registry accepts.
async fn token_registry(expires_in: u64, takes: fn(&str) -> bool) -> Fake {
    Fake::start(move |asked| {
        if asked.path.starts_with("/token") {
            return give_token(asked, expires_in);
        }
        let token = asked.authorization.as_deref().and_then(|value| value.strip_prefix("Bearer "));
        if !token.is_some_and(takes) {
            let challenge =
                format!(r#"Bearer realm="http://{}/token",service="fake",scope="a,b""#, asked.host);
            return answer(StatusCode::UNAUTHORIZED, &[("www-authenticate", &challenge)], "");
        }
        match asked.method {
            Method::POST => status(StatusCode::CREATED),
            _ => status(StatusCode::OK),
        }
    })
    .await
}

fn give_token(asked: &Asked, expires_in: u64) -> Response {
    if asked.authorization.as_deref() != Some(BASIC) {
        return status(StatusCode::UNAUTHORIZED);
    }
    let body = format!(r#"{{"token":"t{}","expires_in":{expires_in}}}"#, asked.before);
    answer(StatusCode::OK, &[], body)
}

fn tokens(fake: &Fake) -> Vec<String> {
    let asked = fake.asked().into_iter().map(|asked| asked.path);
    asked.filter(|path| path.starts_with("/token")).collect()
}

#[tokio::test]
async fn a_token_is_asked_for_once_per_scope_and_kept() {
    let fake = token_registry(300, |_| true).await;
    let registry = fake.registry();
    let digest = Digest::of(b"x");
    let looks = (0..10).map(|_| registry.blob_exists("a/b", &digest));
    futures::future::try_join_all(looks).await.unwrap();
    registry.ping().await.unwrap();
    registry.mount_blob("a/b", &digest, "c").await.unwrap();
    assert_eq!(
        tokens(&fake),
        [
            "/token?service=fake&scope=repository%3Aa%2Fb%3Apull",
            "/token?service=fake",
            "/token?service=fake&scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Ac%3Apull",
        ]
    );
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let fake = token_registry(1, |_| true).await;
    let registry = fake.registry();
    registry.ping().await.unwrap();
    eventually("a second token", Duration::from_secs(30), async || {
        registry.ping().await.unwrap();
        (tokens(&fake).len() >= 2).then_some(())
    })
    .await;
    // The registry never saw an ended one: only the first ping was a challenge.
    let refused = fake.asked().iter().filter(|asked| asked.authorization.is_none()).count();
    assert_eq!(refused, 1);
}

#[tokio::test]
async fn a_token_may_be_good_for_ever_or_for_no_time() {
    for (expires_in, asked) in [(u64::MAX, 1), (0, 2)] {
        let fake = token_registry(expires_in, |_| true).await;
        let registry = fake.registry();
        for _ in 0..2 {
            registry.ping().await.unwrap();
        }
        assert_eq!(tokens(&fake).len(), asked, "{expires_in}");
    }
}

#[tokio::test]
async fn a_token_refused_early_is_replaced_once() {
    let fake = token_registry(300, |token| token != "t0").await;
    fake.registry().ping().await.unwrap();
    assert_eq!(tokens(&fake).len(), 2);

    let fake = token_registry(300, |_| false).await;
    assert!(fake.registry().ping().await.unwrap_err().is_unauthorized());
    assert_eq!(tokens(&fake).len(), 2);
}

#[tokio::test]
async fn a_token_service_that_refuses_us_is_unauthorized() {
    let fake = token_registry(300, |_| true).await;
    let registry = Registry::new(&Options {
        host: fake.host.clone(),
        username: Some("user".into()),
        password: Some(Secret::new("wrong")),
        plain_http: true,
        ..Options::default()
    });
    assert!(registry.unwrap().ping().await.unwrap_err().is_unauthorized());
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let content = noise("redirect", 1000);
    let blob = Descriptor::new("x", Digest::of(&content), 1000);
    let storage = Fake::start(move |_| answer(StatusCode::OK, &[], content.clone())).await;
    let elsewhere = format!("http://{}/signed", storage.host);
    let fake = Fake::start(move |asked| {
        if asked.authorization.as_deref() != Some(BASIC) {
            let challenge = [("www-authenticate", "Basic realm=\"x\"")];
            return answer(StatusCode::UNAUTHORIZED, &challenge, "");
        }
        match asked.path.as_str() {
            "/v2/" => status(StatusCode::OK),
            _ => answer(StatusCode::TEMPORARY_REDIRECT, &[("location", &elsewhere)], ""),
        }
    })
    .await;
    fake.registry().blob_bytes("a", &blob, 1000).await.unwrap();
    let asked = storage.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].authorization, None);
}

#[tokio::test]
async fn credentials_are_not_sent_to_an_upload_location_on_another_host() {
    let storage = Fake::start(|_| status(StatusCode::CREATED)).await;
    let elsewhere = format!("http://{}/session?_state=s", storage.host);
    let fake = Fake::start(move |asked| match (asked.authorization.is_some(), &asked.method) {
        (false, _) => {
            let challenge = [("www-authenticate", "Basic realm=\"x\"")];
            answer(StatusCode::UNAUTHORIZED, &challenge, "")
        }
        (true, &Method::HEAD) => status(StatusCode::NOT_FOUND),
        (true, _) => answer(StatusCode::ACCEPTED, &[("location", &elsewhere)], ""),
    })
    .await;
    let blob = fake.registry().put_blob("a", Bytes::from("content")).await.unwrap();
    let asked = storage.asked();
    let digest = blob.digest.to_string().replace(':', "%3A");
    let seen: BTreeSet<_> = asked.iter().map(|asked| asked.path.clone()).collect();
    assert_eq!(seen, [format!("/session?_state=s&digest={digest}")].into());
    assert!(asked.iter().all(|asked| asked.authorization.is_none()));
}
