//! What stands between the client and a real registry, and does to their exchange what a test wants.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use mecapy_registry::{Options, Registry};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
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
    /// The same after all that the client sends was taken.
    Swallow(StatusCode),
    /// The answer has this header as well.
    Header(&'static str, String),
    /// Only once so many others were there.
    Await(Arc<Crowd>),
    /// The answer breaks off after so many bytes of its body.
    Cut(usize),
    /// The answer has only so many bytes, and says that this is all.
    Shorten(usize),
    /// The same, without a length: it just ends.
    EndEarly(usize),
    /// One bit of the answer is another.
    Spoil,
}

/// Holds whoever comes until so many are there. Who comes later, as one that is sent again, is not held.
#[derive(Debug)]
pub struct Crowd {
    missing: AtomicUsize,
    gate: Semaphore,
}

impl Crowd {
    pub fn of(many: usize) -> Self {
        Self { missing: AtomicUsize::new(many), gate: Semaphore::new(0) }
    }

    async fn join(&self) {
        if self.missing.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.gate.close();
        }
        // There are no permits: it ends when the gate is closed for good.
        let _ = self.gate.acquire().await;
    }
}

pub struct Proxy {
    registry: mecapy_testkit::RegistryServer,
    address: String,
    passed: Arc<Mutex<Vec<Passing>>>,
    most_uploads: Arc<AtomicUsize>,
    /// What manifests named that was not there, whole, when they were put.
    lacking: Arc<Mutex<Vec<String>>>,
    server: AbortHandle,
}

/// An upload that is on its way.
struct Upload(Arc<AtomicUsize>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
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
        let (uploads, most_uploads) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (lacking, most) = (Arc::new(Mutex::new(Vec::new())), most_uploads.clone());
        let found = lacking.clone();
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
            let upload = (passing.step() == Step::PutBlob).then(|| {
                most.fetch_max(uploads.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                Upload(uploads.clone())
            });
            let found = found.clone();
            async move {
                let _upload = upload;
                match fate(&passing) {
                    Fate::Swallow(status) => {
                        let _ = to_bytes(request.into_body(), usize::MAX).await;
                        Response::builder().status(status).body(Body::empty()).unwrap()
                    }
                    Fate::Answer(status, headers) => {
                        let builder = Response::builder().status(status);
                        let add = |builder: axum::http::response::Builder, (name, value)| {
                            builder.header(name, value)
                        };
                        headers.into_iter().fold(builder, add).body(Body::empty()).unwrap()
                    }
                    fate => {
                        if let Fate::Await(others) = &fate {
                            others.join().await;
                        }
                        let request = match passing.step() {
                            Step::PutManifest => {
                                let (request, lacks) = look_into(&client, &host, request).await;
                                found.lock().unwrap().extend(lacks);
                                request
                            }
                            _ => request,
                        };
                        forward(&client, &host, request, &fate).await
                    }
                }
            }
        });
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let server = server.abort_handle();
        Self { registry, address, passed, most_uploads, lacking, server }
    }

    /// The registry, reached through this.
    pub fn registry(&self) -> Registry {
        Registry::new(&self.options()).unwrap()
    }

    pub fn options(&self) -> Options {
        let endpoint = Some(format!("http://{}", self.address).parse().unwrap());
        Options { endpoint, ..options(self.registry.clone()) }
    }

    pub fn passed(&self, step: Step) -> Vec<Passing> {
        let passed = self.passed.lock().unwrap();
        passed.iter().filter(|passing| passing.step() == step).cloned().collect()
    }

    /// How many requests passed by.
    pub fn all(&self) -> usize {
        self.passed.lock().unwrap().len()
    }

    /// The most uploads that were on their way at once.
    pub fn most_uploads(&self) -> usize {
        self.most_uploads.load(Ordering::SeqCst)
    }

    /// What manifests named that was not there when they were put. Whoever doesn't ask wants nothing to lack.
    pub fn lacking(&self) -> Vec<String> {
        std::mem::take(&mut *self.lacking.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
        if !std::thread::panicking() {
            let lacking = self.lacking();
            assert!(lacking.is_empty(), "a manifest was put before what it names: {lacking:?}");
        }
    }
}

/// What a manifest on its way names and the registry has not got, or not whole.
async fn look_into(
    client: &reqwest::Client,
    host: &str,
    request: Request,
) -> (Request, Vec<String>) {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let (repository, _) = parts.uri.path().rsplit_once("/manifests/").unwrap();
    let of = |name: &str| manifest[name].as_array().cloned().unwrap_or_default();
    let blobs = of("layers").into_iter().chain([manifest["config"].clone()]);
    let blobs = blobs.map(|named| ("blobs", named));
    let mut lacking = Vec::new();
    for (kind, named) in blobs.chain(of("manifests").into_iter().map(|it| ("manifests", it))) {
        let Some(digest) = named["digest"].as_str() else { continue };
        let mut look = client
            .head(format!("http://{host}{repository}/{kind}/{digest}"))
            .header(header::ACCEPT, ACCEPT);
        if let Some(login) = parts.headers.get(header::AUTHORIZATION) {
            look = look.header(header::AUTHORIZATION, login);
        }
        let there = look.send().await.unwrap();
        let length = there.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().unwrap().parse::<u64>().ok());
        if !there.status().is_success() || length != named["size"].as_u64() {
            lacking.push(format!("{kind} {digest}: {} {length:?}", there.status()));
        }
    }
    (Request::from_parts(parts, Body::from(body)), lacking)
}

const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

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
        Fate::Header(name, value) => {
            headers.insert(*name, value.parse().unwrap());
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
