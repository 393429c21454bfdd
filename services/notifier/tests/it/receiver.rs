//! A receiver: keeps what it is sent, and answers as it is told, byte by byte.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mecapy_testkit::eventually;
use ring::hmac;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::world::PATIENCE;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The rules of Standard Webhooks, written down once more: whether one of the signatures is made with this secret.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let mut signed =
            format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp"))
                .into_bytes();
        signed.extend_from_slice(&self.body);
        self.header("webhook-signature").split(' ').any(|signature| {
            let tag = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            hmac::verify(&key, &signed, &tag).is_ok()
        })
    }
}

/// How to answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// These bytes, and the end.
    Bytes(Vec<u8>),
    /// The head of a success, and then a byte now and then, for ever.
    Drip,
    /// A refusal whose body never ends, as fast as it goes.
    Flood,
    /// Nothing, for ever.
    Silence,
}

impl Answer {
    pub fn status(status: &str) -> Self {
        Self::with(status, "", "")
    }

    /// The connection ends with it, and says so: nobody sends the next request into one that is about to close.
    pub fn with(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        Self::Bytes(text.into_bytes())
    }
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    answers: Mutex<VecDeque<Answer>>,
    /// After these, as long as it is there.
    always: Mutex<Option<Answer>>,
}

pub struct Receiver {
    pub port: u16,
    shared: Arc<Shared>,
    scheme: &'static str,
    _stop: DropGuard,
}

impl Receiver {
    /// Answers as it is told, in turn, and then 204.
    pub async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::start_on(answers, None).await
    }

    /// Answers so until it recovers, however often it is tried: by itself, the notifier tries again after 5 s.
    pub async fn failing(answer: Answer) -> Self {
        let receiver = Self::start([]).await;
        *receiver.shared.always.lock().unwrap() = Some(answer);
        receiver
    }

    /// From now on it answers 204.
    pub fn recovers(&self) {
        *self.shared.always.lock().unwrap() = None;
    }

    /// With the certificate of `tls/`, which no system trusts.
    pub async fn start_tls() -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls");
        let certificate = CertificateDer::from_pem_file(format!("{folder}/server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(format!("{folder}/server.key.pem")).unwrap();
        mecapy_service::install_tls();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::start_on([], Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_on(answers: impl IntoIterator<Item = Answer>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        shared.answers.lock().unwrap().extend(answers);
        let stop = CancellationToken::new();
        let (kept, until) = (Arc::clone(&shared), stop.clone());
        let scheme = if tls.is_some() { "https" } else { "http" };
        tokio::spawn(until.run_until_cancelled_owned(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (shared, tls) = (Arc::clone(&kept), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &shared).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &shared).await;
                            }
                        }
                    }
                });
            }
        }));
        Self { port, shared, scheme, _stop: stop.drop_guard() }
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}/hook?team=a", self.scheme, self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The requests, once there are so many.
    pub async fn received(&self, number: usize) -> Vec<Request> {
        eventually(&format!("{number} requests"), PATIENCE, async || {
            let requests = self.requests();
            (requests.len() >= number).then_some(requests)
        })
        .await
    }
}

/// One request a connection.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) {
    let Some(request) = read(&mut stream).await else { return };
    let answer = {
        shared.requests.lock().unwrap().push(request);
        let next = shared.answers.lock().unwrap().pop_front();
        next.or_else(|| shared.always.lock().unwrap().clone())
    };
    match answer.unwrap_or_else(|| Answer::status("204 No Content")) {
        Answer::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Answer::Drip => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
            let _ = stream.write_all(head).await;
            while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Answer::Flood => {
            let head = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 1000000000000\r\n\r\n";
            let _ = stream.write_all(head).await;
            while stream.write_all(&[b'a'; 65_536]).await.is_ok() {}
        }
        Answer::Silence => {
            let mut byte = [0];
            let _ = stream.read(&mut byte).await;
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.lines();
    let line = lines.next()?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length")?.parse().unwrap();
    let mut body = bytes[head_end + 4..].to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { line, headers, body })
}
