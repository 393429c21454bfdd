//! Where a registry leads to another host, that one gets nothing that is ours.

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use mecapy_registry::{Descriptor, Digest, Error, Registry, media_types};

use crate::fake::{Fake, answer, status};

/// `user:secret`, as the fakes' clients have it.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A host that wants a login, by a token that it would give out itself.
async fn trap() -> Fake {
    Fake::start(|asked| {
        if asked.path.starts_with("/token") {
            return answer(StatusCode::OK, &[], r#"{"token":"t"}"#);
        }
        let challenge = format!(r#"Bearer realm="http://{}/token",service="trap""#, asked.host);
        answer(StatusCode::UNAUTHORIZED, &[("www-authenticate", &challenge)], "")
    })
    .await
}

/// A registry behind a password that leads every blob, manifest and upload to `elsewhere`.
async fn leading(elsewhere: &str) -> Fake {
    let elsewhere = elsewhere.to_owned();
    Fake::start(move |asked| {
        if asked.authorization.as_deref() != Some(BASIC) {
            let challenge = [("www-authenticate", "Basic realm=\"x\"")];
            return answer(StatusCode::UNAUTHORIZED, &challenge, "");
        }
        let there = [("location", elsewhere.as_str())];
        match (&asked.method, asked.path.as_str()) {
            (_, "/v2/") => status(StatusCode::OK),
            (&Method::HEAD, _) => status(StatusCode::NOT_FOUND),
            (&Method::POST, _) => answer(StatusCode::ACCEPTED, &there, ""),
            _ => answer(StatusCode::TEMPORARY_REDIRECT, &there, ""),
        }
    })
    .await
}

fn assert_got_nothing(trap: &Fake) {
    let asked = trap.asked();
    assert!(!asked.is_empty());
    for asked in asked {
        assert_eq!(asked.authorization, None, "{asked:?}");
        assert!(!asked.path.starts_with("/token"), "{asked:?}");
    }
}

#[tokio::test]
async fn a_login_that_another_host_wants_is_not_given() {
    let trap = trap().await;
    let fake = leading(&format!("http://{}/signed", trap.host)).await;
    let registry = fake.registry();
    let blob = Descriptor::new("x", Digest::of(b"content"), 7);
    for error in [
        registry.blob_bytes("a", &blob, 7).await.unwrap_err(),
        registry.manifest("a", "v1").await.unwrap_err(),
        registry.put_blob("a", Bytes::from("content")).await.unwrap_err(),
    ] {
        assert!(error.is_unauthorized(), "{error}");
        // It is not the registry that refuses.
        assert!(error.to_string().starts_with(&trap.host), "{error}");
    }
    assert_got_nothing(&trap);
    // Nor has it changed how the registry itself is spoken to.
    registry.ping().await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_another_host_altogether_gets_no_login() {
    let trap = trap().await;
    let elsewhere = format!("http://{}/v2/", trap.host);
    let fake = Fake::start(move |_| {
        answer(StatusCode::TEMPORARY_REDIRECT, &[("location", &elsewhere)], "")
    })
    .await;
    let error = fake.registry().ping().await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    assert_got_nothing(&trap);
}

#[tokio::test]
async fn a_token_service_that_leads_elsewhere_takes_no_password_along() {
    let storage = Fake::start(|_| answer(StatusCode::OK, &[], r#"{"token":"t"}"#)).await;
    let elsewhere = format!("http://{}/elsewhere", storage.host);
    let fake = Fake::start(move |asked| {
        if asked.path.starts_with("/token") {
            assert_eq!(asked.authorization.as_deref(), Some(BASIC));
            return answer(StatusCode::FOUND, &[("location", &elsewhere)], "");
        }
        if asked.authorization.as_deref() == Some("Bearer t") {
            return status(StatusCode::OK);
        }
        let challenge = format!(r#"Bearer realm="http://{}/token""#, asked.host);
        answer(StatusCode::UNAUTHORIZED, &[("www-authenticate", &challenge)], "")
    })
    .await;
    fake.registry().ping().await.unwrap();
    let asked = storage.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].authorization, None);
}

#[tokio::test]
async fn the_next_page_of_a_list_is_on_the_same_registry_or_nowhere() {
    let other = Fake::start(|_| status(StatusCode::OK)).await;
    let link = format!("<http://{}/v2/more>; rel=\"next\"", other.host);
    let fake = Fake::start(move |asked| {
        let headers = [("link", link.as_str()), ("content-type", media_types::OCI_INDEX)];
        match asked.path.as_str() {
            "/v2/" => status(StatusCode::OK),
            path if path.contains("/referrers/") => {
                answer(StatusCode::OK, &headers, r#"{"manifests":[]}"#)
            }
            _ => answer(StatusCode::OK, &headers, r#"{"tags":["a"],"repositories":["a"]}"#),
        }
    })
    .await;
    let registry: Registry = fake.registry();
    for error in [
        registry.tags("a").await.unwrap_err(),
        registry.catalog().await.unwrap_err(),
        registry.referrers("a", &Digest::of(b"x")).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("another host"), "{error}");
    }
    assert!(other.asked().is_empty());
}
