//! What stands between the client and a real registry, and does to their exchange what a test wants.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use mecapy_registry::{Options, Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::servers::options;

/// One request that passes by.
#[derive(Clone, Debug)]
pub struct Passing {
    pub method: Method,
    pub path: String,
    pub range: Option<String>,
    /// How often the same step was asked before.
    pub before: usize,
}

/// The kinds of requests that a copy makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Api,
    LookForManifest,
    ReadManifest,
    PutManifest,
    LookForBlob,
    ReadBlob,
    StartUpload,
    PutBlob,
    CancelUpload,
    Other,
}

impl Passing {
    pub fn step(&self) -> Step {
        let is_of = |part: &str| self.path.contains(part);
        match self.method.as_str() {
            _ if self.path == "/v2/" => Step::Api,
            "HEAD" if is_of("/manifests/") => Step::LookForManifest,
            "GET" if is_of("/manifests/") => Step::ReadManifest,
            "PUT" if is_of("/manifests/") => Step::PutManifest,
            "POST" if is_of("/blobs/uploads/") => Step::StartUpload,
            "PUT" if is_of("/blobs/uploads/") => Step::PutBlob,
            "DELETE" if is_of("/blobs/uploads/") => Step::CancelUpload,
            "HEAD" if is_of("/blobs/") => Step::LookForBlob,
            "GET" if is_of("/blobs/") => Step::ReadBlob,
            _ => Step::Other,
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fate {
    Pass,
    /// This answer, and the registry never hears of it.
    Answer(StatusCode, Vec<(&'static str, String)>),
    /// The answer breaks off after so many bytes of its body.
    Cut(usize),
    /// The answer has only so many bytes, and says that this is all.
    Shorten(usize),
    /// The same, without a length: it just ends.
    EndEarly(usize),
    /// One bit of the answer is another.
    Spoil,
}

pub struct Proxy {
    registry: mecapy_testkit::RegistryServer,
    address: String,
    passed: Arc<Mutex<Vec<Passing>>>,
    server: AbortHandle,
}

impl Proxy {
    pub async fn start(
        registry: mecapy_testkit::RegistryServer,
        fate: impl Fn(&Passing) -> Fate + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let passed = Arc::new(Mutex::new(Vec::new()));
        let counts = Arc::new(Mutex::new(HashMap::<Step, usize>::new()));
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let (host, remember) = (registry.host.clone(), passed.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (host, client, fate) = (host.clone(), client.clone(), fate.clone());
            let range = request.headers().get(header::RANGE);
            let mut passing = Passing {
                method: request.method().clone(),
                path: request.uri().path_and_query().unwrap().to_string(),
                range: range.map(|range| range.to_str().unwrap().to_owned()),
                before: 0,
            };
            {
                let mut counts = counts.lock().unwrap();
                let count = counts.entry(passing.step()).or_default();
                passing.before = *count;
                *count += 1;
            }
            remember.lock().unwrap().push(passing.clone());
            async move {
                match fate(&passing) {
                    Fate::Answer(status, headers) => {
                        let builder = Response::builder().status(status);
                        let add = |builder: axum::http::response::Builder, (name, value)| {
                            builder.header(name, value)
                        };
                        headers.into_iter().fold(builder, add).body(Body::empty()).unwrap()
                    }
                    fate => forward(&client, &host, request, &fate).await,
                }
            }
        });
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { registry, address, passed, server: server.abort_handle() }
    }

    /// The registry, reached through this.
    pub fn registry(&self) -> Registry {
        let endpoint = Some(format!("http://{}", self.address).parse().unwrap());
        Registry::new(&Options { endpoint, ..options(self.registry.clone()) }).unwrap()
    }

    pub fn passed(&self, step: Step) -> Vec<Passing> {
        let passed = self.passed.lock().unwrap();
        passed.iter().filter(|passing| passing.step() == step).cloned().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub async fn forward(
    client: &reqwest::Client,
    host: &str,
    request: Request,
    fate: &Fate,
) -> Response {
    let (parts, body) = request.into_parts();
    let url = format!("http://{host}{}", parts.uri.path_and_query().unwrap());
    let mut headers = parts.headers;
    headers.remove(header::TRANSFER_ENCODING);
    let mut forwarded = client.request(parts.method.clone(), url).headers(headers);
    if matches!(parts.method, Method::PUT | Method::POST | Method::PATCH) {
        forwarded = forwarded.body(reqwest::Body::wrap_stream(body.into_data_stream()));
    }
    let Ok(answer) = forwarded.send().await else {
        return Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).unwrap();
    };
    let mut response = Response::builder().status(answer.status());
    let mut headers: HeaderMap = answer.headers().clone();
    match fate {
        Fate::Shorten(to) => {
            headers.insert(header::CONTENT_LENGTH, (*to).into());
        }
        Fate::EndEarly(_) => {
            headers.remove(header::CONTENT_LENGTH);
        }
        _ => {}
    }
    *response.headers_mut().unwrap() = headers;
    let body = answer.bytes_stream().map(|piece| piece.map_err(std::io::Error::other));
    let body = match fate {
        Fate::Cut(after) => {
            let broken = futures::stream::iter([Err(std::io::Error::other("cut"))]);
            Body::from_stream(first(body, *after).chain(broken))
        }
        Fate::Shorten(to) | Fate::EndEarly(to) => Body::from_stream(first(body, *to)),
        Fate::Spoil => Body::from_stream(body.enumerate().map(|(index, piece)| {
            piece.map(|piece| {
                let mut piece = piece.to_vec();
                if index == 0 {
                    piece[0] ^= 1;
                }
                Bytes::from(piece)
            })
        })),
        _ => Body::from_stream(body),
    };
    response.body(body).unwrap()
}

fn first(
    body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    most: usize,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    body.scan(most, |left, piece| {
        let piece = piece.map(|piece| piece.slice(..piece.len().min(*left)));
        *left -= piece.as_ref().map_or(0, Bytes::len);
        let is_over = piece.as_ref().is_ok_and(Bytes::is_empty);
        std::future::ready((!is_over).then_some(piece))
    })
}

/// Closes the connection on which the `at`th byte goes to the registry, once.
pub struct Cutter {
    registry: mecapy_testkit::RegistryServer,
    address: String,
    left: Arc<AtomicU64>,
}

impl Cutter {
    pub async fn start(registry: mecapy_testkit::RegistryServer, at: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let left = Arc::new(AtomicU64::new(at));
        let (host, shared) = (registry.host.clone(), left.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_bytes(client, host.clone(), shared.clone()));
            }
        });
        Self { registry, address, left }
    }

    pub fn registry(&self) -> Registry {
        let endpoint = Some(format!("http://{}", self.address).parse().unwrap());
        Registry::new(&Options { endpoint, ..options(self.registry.clone()) }).unwrap()
    }

    pub fn has_cut(&self) -> bool {
        self.left.load(Ordering::SeqCst) == u64::MAX
    }
}

async fn pass_bytes(client: TcpStream, host: String, left: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(&host).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from_client.read(&mut piece).await {
        let bytes = read as u64;
        let cut = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            u64::MAX => None,
            left if left < bytes => Some(u64::MAX),
            left => Some(left - bytes),
        });
        let is_over = cut.is_ok_and(|left| left < bytes);
        if is_over || to_server.write_all(&piece[..read]).await.is_err() {
            break;
        }
    }
    back.abort();
}

/// Passes bytes both ways, until `after` of them went in one direction: from then on that connection gives a byte now and
/// then. Other connections go on as they should.
pub struct Trickler {
    registry: mecapy_testkit::RegistryServer,
    address: String,
    left: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToRegistry,
    FromRegistry,
}

impl Trickler {
    pub async fn start(registry: mecapy_testkit::RegistryServer, way: Way, after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let left = Arc::new(AtomicU64::new(after));
        let (host, shared) = (registry.host.clone(), left.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (host, shared) = (host.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(&host).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let never = Arc::new(AtomicU64::new(u64::MAX));
                    let (up, down) = match way {
                        Way::ToRegistry => (shared, never),
                        Way::FromRegistry => (never, shared),
                    };
                    tokio::select! {
                        () = trickle(from_client, to_server, up) => {}
                        () = trickle(from_server, to_client, down) => {}
                    }
                });
            }
        });
        Self { registry, address, left }
    }

    /// A client that waits for no longer than two seconds.
    pub fn registry(&self) -> Registry {
        let endpoint = Some(format!("http://{}", self.address).parse().unwrap());
        let options = Options { endpoint, patience_seconds: 2, ..options(self.registry.clone()) };
        Registry::new(&options).unwrap()
    }

    pub fn has_trickled(&self) -> bool {
        self.left.load(Ordering::SeqCst) == u64::MAX
    }
}

async fn trickle(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    left: Arc<AtomicU64>,
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let bytes = read as u64;
        let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            u64::MAX => None,
            left if left < bytes => Some(u64::MAX),
            left => Some(left - bytes),
        });
        if spent.is_ok_and(|left| left < bytes) {
            for byte in piece.iter().cycle() {
                if to.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
