//! What stands before a registry, and does to its calls what a test wants.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicUsize};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use mecapy_registry::{Options, Registry};
use mecapy_testkit::RegistryServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::options;

/// One call on its way.
pub struct Passing {
    /// From 0.
    pub number: usize,
    pub method: Method,
    pub path: String,
}

impl Passing {
    pub fn is(&self, method: Method, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

#[derive(Clone, Copy)]
pub enum Fate {
    Pass,
    /// It is done, and nobody hears of it.
    Unheard,
    /// It never gets there.
    Lost,
    /// One bit of the answer is another.
    Spoil,
    /// This answer, and the registry has not heard of it.
    Answer(StatusCode, &'static str),
}

pub struct Proxy {
    server: RegistryServer,
    address: String,
    silent: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Proxy {
    pub async fn start(
        server: &RegistryServer,
        fate: impl Fn(&Passing) -> Fate + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (silence, silent) = watch::channel(false);
        let (silence, calls) = (Arc::new(silence), Arc::new(AtomicUsize::new(0)));
        let (client, host) = (reqwest::Client::new(), server.host.clone());
        let router = Router::new().fallback(move |request: Request| {
            let passing = Passing {
                number: calls.fetch_add(1, atomic::Ordering::SeqCst),
                method: request.method().clone(),
                path: request.uri().path_and_query().unwrap().to_string(),
            };
            let (fate, silence) = (fate(&passing), silence.clone());
            let (client, host) = (client.clone(), host.clone());
            async move {
                let body = match fate {
                    Fate::Lost => std::future::pending().await,
                    Fate::Answer(status, body) => {
                        let _ = to_bytes(request.into_body(), usize::MAX).await;
                        return Response::builder().status(status).body(body.into()).unwrap();
                    }
                    _ => forward(&client, &host, request).await,
                };
                match fate {
                    Fate::Unheard => {
                        silence.send_replace(true);
                        std::future::pending().await
                    }
                    Fate::Spoil => spoil(body).await,
                    _ => body,
                }
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { server: server.clone(), address, silent, task: task.abort_handle() }
    }

    pub fn registry(&self) -> Registry {
        let endpoint = Some(format!("http://{}", self.address).parse().unwrap());
        let options = options(&self.server, &self.server.password);
        Registry::new(&Options { endpoint, ..options }).unwrap()
    }

    /// What passes is done up to the call of this number, from 0; of that one nobody hears, and what comes after is lost.
    pub async fn deaf_after(server: &RegistryServer, last: usize) -> Self {
        Self::start(server, move |passing| match passing.number.cmp(&last) {
            Ordering::Less => Fate::Pass,
            Ordering::Equal => Fate::Unheard,
            Ordering::Greater => Fate::Lost,
        })
        .await
    }

    /// Waits for the call that nobody hears of.
    pub async fn is_silent(&self) {
        self.silent.clone().wait_for(|is_silent| *is_silent).await.unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a test waits for must come to its end when a connection breaks here, too.
async fn forward(client: &reqwest::Client, host: &str, request: Request) -> Response {
    let passed_on = pass_on(client, host, request).await;
    passed_on.unwrap_or_else(|error| {
        let mut response = Response::new(Body::from(error.to_string()));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}

async fn pass_on(
    client: &reqwest::Client,
    host: &str,
    request: Request,
) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = request.into_parts();
    let url = format!("http://{host}{}", parts.uri.path_and_query().unwrap());
    let mut headers = parts.headers;
    headers.remove(header::TRANSFER_ENCODING);
    let body = to_bytes(body, usize::MAX).await?;
    let answer = client.request(parts.method, url).headers(headers).body(body).send().await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut response = Response::new(Body::from(answer.bytes().await?));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

async fn spoil(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    // It doesn't give itself away.
    parts.headers.remove("docker-content-digest");
    let mut body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
    if let Some(last) = body.last_mut() {
        *last ^= 1;
    }
    Response::from_parts(parts, Body::from(body))
}
