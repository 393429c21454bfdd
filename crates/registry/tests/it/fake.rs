//! A server that answers what a test wants and remembers what it was asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use mecapy_registry::{Options, Registry};
use mecapy_service::Secret;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

#[derive(Clone, Debug)]
pub struct Asked {
    /// The fake itself, as the client knows it.
    pub host: String,
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub authorization: Option<String>,
    /// What it is to answer 304 for.
    pub if_none_match: Option<String>,
    /// How often the same method and path were asked before.
    pub before: usize,
}

impl Asked {
    pub fn is(&self, method: Method, path: &str) -> bool {
        self.method == method && self.path == path
    }
}

pub struct Fake {
    /// `127.0.0.1:port`
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: AbortHandle,
}

impl Fake {
    pub async fn start(
        answer: impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let counts = Arc::new(Mutex::new(HashMap::new()));
        let remember = asked.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (answer, remember, counts) = (answer.clone(), remember.clone(), counts.clone());
            async move {
                let path = request.uri().path_and_query().unwrap().to_string();
                let method = request.method().clone();
                let before = {
                    let mut counts = counts.lock().unwrap();
                    let count: &mut usize =
                        counts.entry((method.clone(), path.clone())).or_default();
                    *count += 1;
                    *count - 1
                };
                let [authorization, if_none_match] = [header::AUTHORIZATION, header::IF_NONE_MATCH]
                    .map(|name| request.headers().get(name))
                    .map(|value| value.map(|value| value.to_str().unwrap().to_owned()));
                let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
                let asked = Asked { host, method, path, authorization, if_none_match, before };
                remember.lock().unwrap().push(asked.clone());
                let _ = to_bytes(request.into_body(), usize::MAX).await;
                answer(&asked)
            }
        });
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, asked, server: server.abort_handle() }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn count(&self, method: Method, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked.is(method.clone(), path)).count()
    }

    /// A client of it, with credentials.
    pub fn registry(&self) -> Registry {
        Registry::new(&Options {
            host: self.host.clone(),
            username: Some("user".into()),
            password: Some(Secret::new("secret")),
            plain_http: true,
            ..Options::default()
        })
        .unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn status(code: StatusCode) -> Response {
    answer(code, &[], "")
}

pub fn answer(code: StatusCode, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let builder = Response::builder().status(code);
    let builder =
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    builder.body(body.into()).unwrap()
}

/// Announces the whole and breaks off after the first bytes.
pub fn cut(whole: &Bytes, after: usize) -> Response {
    let first = whole.slice(..after);
    let pieces = futures::stream::iter([Ok(first), Err(std::io::Error::other("cut"))]);
    answer(
        StatusCode::OK,
        &[("content-length", &whole.len().to_string())],
        Body::from_stream(pieces),
    )
}
