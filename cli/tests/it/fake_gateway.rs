//! A gateway that answers as a test says, over real HTTP.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::HeaderMap;
use axum::response::Response;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};

pub const BUILD: &str = "018f4e3e-0000-7000-8000-00000000000b";
pub const TASK: &str = "018f4e3e-0000-7000-8000-00000000000a";

#[derive(Debug, Clone)]
pub struct Request {
    /// "GET /functions?page_size=100"
    pub line: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

pub enum Reply {
    Json(u16, String),
    Text(&'static str),
    Problem(u16, Value),
    Events(Vec<Chunk>),
    /// The connection breaks in the middle of the answer.
    Broken,
}

#[derive(Clone, Copy)]
pub enum Chunk {
    Text(&'static str),
    /// The connection breaks.
    Break,
    /// Nothing more comes, and it stays open.
    Hang,
}

pub struct FakeGateway {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl FakeGateway {
    /// `answer` is given each request, and how many came before it.
    pub async fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        let router = Router::new().fallback(move |request: axum::extract::Request| {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            async move {
                let (parts, body) = request.into_parts();
                let body = to_bytes(body, 16 * 1024 * 1024).await.unwrap();
                let request = Request {
                    line: format!("{} {}", parts.method, parts.uri),
                    headers: parts.headers,
                    body: String::from_utf8(body.to_vec()).unwrap(),
                };
                let mut seen = seen.lock().unwrap();
                let reply = answer(&request, seen.len());
                seen.push(request);
                Response::from(reply)
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, requests }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.line).collect()
    }
}

/// An address where nothing listens, for as long as the socket that has it is held.
pub fn nowhere() -> (String, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (format!("http://{}", socket.local_addr().unwrap()), socket)
}

pub fn problem(status: u16, code: &str, detail: &str, field: Option<&str>) -> Reply {
    let mut body = json!({ "type": format!("/errors/{code}"), "title": "Refused", "status": status, "detail": detail, "code": code });
    if let Some(field) = field {
        body["field"] = field.into();
    }
    Reply::Problem(status, body)
}

pub fn function(status: &str) -> Value {
    json!({ "function_id": 456, "name": "stats", "owner": "acme", "version": 1, "build_id": BUILD, "status": status })
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Self {
        let (status, content_type, body) = match reply {
            Reply::Json(status, body) => (status, "application/json", Body::from(body)),
            Reply::Text(text) => (200, "text/plain; charset=utf-8", Body::from(text)),
            Reply::Problem(status, body) => {
                (status, "application/problem+json", Body::from(body.to_string()))
            }
            Reply::Broken => {
                (202, "application/json", events(vec![Chunk::Text("{"), Chunk::Break]))
            }
            Reply::Events(chunks) => (200, "text/event-stream", events(chunks)),
        };
        Response::builder().status(status).header("content-type", content_type).body(body).unwrap()
    }
}

fn events(chunks: Vec<Chunk>) -> Body {
    let stream = futures::stream::iter(chunks).then(|chunk| async move {
        // So that each chunk goes out on its own.
        tokio::task::yield_now().await;
        match chunk {
            Chunk::Text(text) => Ok(text),
            Chunk::Break => Err(std::io::Error::other("broken on purpose")),
            Chunk::Hang => std::future::pending().await,
        }
    });
    Body::from_stream(stream)
}
