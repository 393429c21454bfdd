//! A registry behind a certificate of its own authority.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use axum::http::StatusCode;
use bytes::Bytes;
use mecapy_registry::{Error, Options, Registry};
use mecapy_service::Secret;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::fake::{Fake, status};

fn certificate(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/certificates", name].iter().collect()
}

const OK: &str = "200 OK\r\n";

/// Answers over TLS: `respond` makes of a path the status and more headers. Ends with the process.
fn serve(respond: impl Fn(&str) -> String + Send + 'static) -> String {
    let chain = vec![CertificateDer::from_pem_file(certificate("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            // A client that does not trust us breaks off in the handshake.
            let _ = answer(config.clone(), connection, &respond);
        }
    });
    host
}

fn answer(
    config: Arc<ServerConfig>,
    connection: TcpStream,
    respond: &impl Fn(&str) -> String,
) -> std::io::Result<()> {
    let tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(tls, connection);
    let mut request = [0; 4096];
    let mut read = 0;
    while !request[..read].ends_with(b"\r\n\r\n") {
        match stream.read(&mut request[read..])? {
            0 => return Ok(()),
            more => read += more,
        }
    }
    let request = String::from_utf8_lossy(&request[..read]).into_owned();
    let head = respond(request.split(' ').nth(1).unwrap_or_default());
    let answer = format!("HTTP/1.1 {head}content-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes())?;
    stream.conn.send_close_notify();
    stream.flush()
}

#[tokio::test]
async fn a_registry_is_trusted_through_the_ca_bundle_alone() {
    let host = serve(|_| OK.to_owned());
    let untrusting = Options { host: host.clone(), ..Options::default() };
    let error = Registry::new(&untrusting).unwrap().ping().await.unwrap_err();
    assert!(matches!(error, Error::Certificate { .. }), "{error:?}");
    assert!(!error.is_transient());

    let trusting = Options { ca_bundle: Some(certificate("ca.pem")), ..untrusting };
    Registry::new(&trusting).unwrap().ping().await.unwrap();
}

#[test]
fn a_ca_bundle_that_cannot_be_used_is_named() {
    for name in ["missing.pem", "README.md"] {
        let options = Options {
            host: "a.example".into(),
            ca_bundle: Some(certificate(name)),
            ..Options::default()
        };
        let error = Registry::new(&options).unwrap_err();
        assert!(matches!(error, Error::CaBundle { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

fn trusting(host: &str) -> Registry {
    Registry::new(&Options {
        host: host.to_owned(),
        username: Some("user".into()),
        password: Some(Secret::new("secret")),
        ca_bundle: Some(certificate("ca.pem")),
        ..Options::default()
    })
    .unwrap()
}

#[tokio::test]
async fn nothing_leads_out_of_tls() {
    let plain = Fake::start(|_| status(StatusCode::OK)).await;
    let to = format!("location: http://{}/elsewhere\r\n", plain.host);
    let host = serve(move |path| match path {
        "/v2/" => OK.to_owned(),
        path if path.ends_with("/uploads/") => format!("202 Accepted\r\n{to}"),
        path if path.contains("/blobs/") => "404 Not Found\r\n".to_owned(),
        _ => format!("307 Temporary Redirect\r\n{to}"),
    });
    let registry = trusting(&host);
    for error in [
        registry.manifest("a", "v1").await.unwrap_err(),
        registry.put_blob("a", Bytes::from("content")).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Protocol { .. }) && !error.is_transient(), "{error}");
    }

    // Nor does a password.
    let realm = format!("www-authenticate: Bearer realm=\"http://{}/token\"\r\n", plain.host);
    let host = serve(move |_| format!("401 Unauthorized\r\n{realm}"));
    let error = trusting(&host).ping().await.unwrap_err();
    assert!(error.to_string().contains("not HTTPS"), "{error}");
    assert!(plain.asked().is_empty(), "{:?}", plain.asked());
}
