//! A registry behind a certificate of its own authority.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

use mecapy_registry::{Error, Options, Registry};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

fn certificate(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/certificates", name].iter().collect()
}

/// Answers 200 to everything, over TLS. Ends with the process.
fn serve() -> String {
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
            let _ = answer(config.clone(), connection);
        }
    });
    host
}

fn answer(config: Arc<ServerConfig>, connection: TcpStream) -> std::io::Result<()> {
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
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    stream.conn.send_close_notify();
    stream.flush()
}

#[tokio::test]
async fn a_registry_is_trusted_through_the_ca_bundle_alone() {
    let host = serve();
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
