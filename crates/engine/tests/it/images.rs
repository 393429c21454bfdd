//! Images to and from a registry: by digest, with a login, within a limit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mecapy_engine::{Credentials, Engine, Error};
use mecapy_registry::{Digest, ImageRef};
use mecapy_service::Secret;
use mecapy_testkit::{Infra, unique};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::fixture::{BASE, LONG, LocalImage, docker, engine, function};

/// A function's image, pushed; the local names are removed, so that a pull has something to do.
async fn pushed(engine: &Engine) -> (ImageRef, Credentials) {
    let registry = Infra::shared().await.primary();
    let login =
        Credentials { username: registry.username, password: Secret::new(registry.password) };
    let local = function(engine, &format!("print('{}')", unique("code"))).await;
    let name: ImageRef =
        format!("{}/mecapy/engine-test/{}:v1", registry.host, unique("image")).parse().unwrap();
    engine.tag(&local.0, &name).await.unwrap();
    let digest = engine.push(&name, Some(&login), LONG).await.unwrap();
    assert!(engine.remove_image(&name.to_string()).await.unwrap());
    (ImageRef { digest: Some(digest), ..name }, login)
}

fn by_digest(reference: &ImageRef) -> String {
    let digest = reference.digest.as_ref().unwrap();
    format!("{}/{}@{digest}", reference.registry, reference.repository)
}

#[tokio::test]
async fn the_names_of_images_are_found_by_a_pattern() {
    let engine = engine().await;
    let name = format!("mecapy-engine-test/{}", unique("named"));
    docker(&["tag", BASE, &format!("{name}:one")]);
    docker(&["tag", BASE, &format!("{name}:two")]);
    let (_one, _two) = (LocalImage(format!("{name}:one")), LocalImage(format!("{name}:two")));
    let mut found = engine.image_names(&format!("{name}:*")).await.unwrap();
    found.sort();
    assert_eq!(found, [format!("{name}:one"), format!("{name}:two")]);
}

#[tokio::test]
async fn an_image_that_is_named_again_was_named_just_now() {
    let engine = engine().await;
    let image = function(&engine, "").await;
    let first = engine.named_at(&image.0).await.unwrap().unwrap();
    let again = LocalImage(format!("mecapy-engine-test/{}:v2", unique("again")));
    docker(&["tag", &image.0, &again.0]);
    assert!(engine.named_at(&image.0).await.unwrap().unwrap() > first);
    assert_eq!(engine.named_at("mecapy-engine-test/none:v1").await.unwrap(), None);
}

#[tokio::test]
async fn what_was_pushed_is_pulled_by_its_digest() {
    let engine = engine().await;
    let (reference, login) = pushed(&engine).await;
    let name = by_digest(&reference);
    assert_eq!(engine.image(&name).await.unwrap(), None);

    engine.pull(&reference, Some(&login), LONG).await.unwrap();
    let image = engine.image(&name).await.unwrap().unwrap();
    assert!(image.repo_digests.contains(&name), "{image:?}");
    assert!(image.layers.len() > 1 && image.size > 0);
    // Once more, when it is there.
    engine.pull(&reference, Some(&login), LONG).await.unwrap();

    assert!(engine.remove_image(&name).await.unwrap());
    assert!(!engine.remove_image(&name).await.unwrap());
}

#[tokio::test]
async fn images_on_one_base_share_its_layers() {
    let engine = engine().await;
    let (one, two) = (function(&engine, "1").await, function(&engine, "22").await);
    let layers = async |name: &str| {
        let image = engine.image(name).await.unwrap().unwrap();
        (engine.layers(&image).await.unwrap(), image.size)
    };
    let ((base, _), (one_has, size), (two_has, _)) =
        (layers(BASE).await, layers(&one.0).await, layers(&two.0).await);
    assert!(base.len() > 1 && one_has.len() == base.len() + 1);
    assert_eq!((&one_has[..base.len()], &two_has[..base.len()]), (&base[..], &base[..]));
    assert_eq!((one_has[base.len()].bytes, two_has[base.len()].bytes), (1, 2));
    assert_eq!(one_has.iter().map(|layer| layer.bytes).sum::<u64>(), size);
}

#[tokio::test]
async fn a_digest_that_the_registry_has_not_is_not_found() {
    let engine = engine().await;
    let (reference, login) = pushed(&engine).await;
    let wrong = ImageRef { digest: Some(Digest::of(b"something else")), ..reference };
    let error = engine.pull(&wrong, Some(&login), LONG).await.unwrap_err();
    assert!(matches!(error, Error::ImageNotFound { .. }), "{error:?}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_pull_or_push_without_the_right_login_is_unauthorized() {
    let engine = engine().await;
    let (reference, login) = pushed(&engine).await;
    let wrong = Credentials { password: Secret::new("wrong"), ..login };
    for login in [None, Some(&wrong)] {
        let error = engine.pull(&reference, login, LONG).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    }
    let local = function(&engine, "pass").await;
    let name = ImageRef { digest: None, ..reference };
    engine.tag(&local.0, &name).await.unwrap();
    let _name = LocalImage(name.to_string());
    for login in [None, Some(&wrong)] {
        let error = engine.push(&name, login, LONG).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_registry_that_refuses_is_transient_at_once() {
    let engine = engine().await;
    // Bound and not listened on: refused for as long as it is held.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let error = engine.pull(&somewhere(port), None, LONG).await.unwrap_err();
    assert!(matches!(error, Error::RegistryUnavailable { .. }), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_registry_that_never_answers_ends_at_the_limit() {
    let engine = engine().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
        }
    });
    let limit = Duration::from_secs(2);
    let error = engine.pull(&somewhere(port), None, limit).await.unwrap_err();
    assert!(matches!(error, Error::TransferTimedOut { .. }), "{error:?}");
    assert!(error.is_transient());
}

/// The engine drops a login whose header it can't decode, and asks without one.
#[tokio::test]
async fn every_password_reaches_the_registry() {
    let engine = engine().await;
    for password in [">>>???~~~", "???>>>", "ÿþÿþ"] {
        let (port, seen) = basic_auth_registry().await;
        let login = Credentials { username: "nologin".into(), password: Secret::new(password) };
        let error = engine.pull(&somewhere(port), Some(&login), LONG).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
        let seen = seen.lock().unwrap().clone();
        let expected = docker_base64(&format!("nologin:{password}"));
        assert!(seen.contains(&format!("Basic {expected}")), "{password}: {seen:?}");
    }
}

#[tokio::test]
async fn what_has_another_digest_than_was_asked_for_is_no_image() {
    let engine = engine().await;
    let port = lying_registry().await;
    let error = engine.pull(&somewhere(port), None, LONG).await.unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }) && !error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn an_image_that_a_container_uses_is_not_removed() {
    let engine = engine().await;
    let image = function(&engine, "pass").await;
    let name = unique("mecapy-engine-test");
    docker(&["create", "--name", &name, &image.0]);
    let error = engine.remove_image(&image.0).await.unwrap_err();
    assert!(matches!(error, Error::ImageInUse { .. }), "{error:?}");
    assert!(engine.remove_container(&name).await.unwrap());
    assert!(engine.remove_image(&image.0).await.unwrap());
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_transient() {
    let options = mecapy_engine::Options {
        host: Some("unix:///nowhere/docker.sock".into()),
        ..mecapy_engine::Options::default()
    };
    let error = Engine::connect(&options).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("/nowhere/docker.sock"), "{error}");
}

#[tokio::test]
async fn the_engine_answers() {
    engine().await.ping().await.unwrap();
}

/// An image by digest at this port of the loopback.
fn somewhere(port: u16) -> ImageRef {
    let digest = Digest::of(b"nothing");
    format!("127.0.0.1:{port}/mecapy/nothing@{digest}").parse().unwrap()
}

/// Asks everyone for a login and lets nobody in; keeps the logins it was given.
async fn basic_auth_registry() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let logins = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let logins = logins.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 16 * 1024];
                // A head fits one packet; a TLS hello is answered with something that isn't TLS.
                let length = connection.read(&mut request).await.unwrap_or_default();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                for line in request.lines() {
                    if let Some(login) = line.strip_prefix("Authorization: ") {
                        logins.lock().unwrap().push(login.to_owned());
                    }
                }
                let answer = "HTTP/1.1 401 Unauthorized\r\n\
                    WWW-Authenticate: Basic realm=\"test\"\r\n\
                    Docker-Distribution-Api-Version: registry/2.0\r\n\
                    Content-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = connection.write_all(answer.as_bytes()).await;
            });
        }
    });
    (port, seen)
}

/// Gives the same manifest, whatever is asked for, and calls it by what was asked for.
async fn lying_registry() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 16 * 1024];
                let length = connection.read(&mut request).await.unwrap_or_default();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let media_type = "application/vnd.docker.distribution.manifest.v2+json";
                let descriptor = |media: &str, of: &str| {
                    format!(
                        r#"{{"mediaType":"{media}","size":{},"digest":"{}"}}"#,
                        of.len(),
                        Digest::of(of.as_bytes())
                    )
                };
                let config = descriptor("application/vnd.docker.container.image.v1+json", "{}");
                let layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", "x");
                let manifest = format!(
                    r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{layer}]}}"#
                );
                let body = if path.contains("/manifests/") { manifest.as_str() } else { "{}" };
                let digest = path.rsplit('/').next().unwrap_or_default();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\
                     Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                // To HEAD as to GET: the client closes where it wants no body.
                let body = if request.starts_with("HEAD") { "" } else { body };
                let _ = connection.write_all((answer + body).as_bytes()).await;
            });
        }
    });
    port
}

/// Standard base64, as HTTP's basic login wants it.
fn docker_base64(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * place)) as usize & 63];
            encoded.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    encoded
}
