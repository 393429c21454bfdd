//! What servers of the two APIs have in common: they speak HTTP, tell what a real registry holds, and remember what
//! they were asked.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use url::Url;

/// A request, taken apart. Segments are decoded after they were told apart.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub segments: Vec<String>,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
}

impl Asked {
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> Vec<&str> {
        self.segments.iter().map(String::as_str).collect()
    }
}

pub struct Api {
    pub url: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: AbortHandle,
}

impl Api {
    pub async fn start<F>(answer: impl Fn(Asked) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let all = Arc::new(Mutex::new(Vec::new()));
        let (remember, base) = (all.clone(), url.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (answer, remember, base) = (answer.clone(), remember.clone(), base.clone());
            async move {
                let url = base.join(&request.uri().to_string()).unwrap();
                let decode = |segment: &str| segment.replace("%2F", "/").replace("%3A", ":");
                let asked = Asked {
                    method: request.method().clone(),
                    segments: url.path_segments().unwrap().map(decode).collect(),
                    query: url.query_pairs().map(|(k, v)| (k.into(), v.into())).collect(),
                    headers: request.headers().clone(),
                };
                remember.lock().unwrap().push(asked.clone());
                answer(asked).await
            }
        });
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, asked: all, server: server.abort_handle() }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn count(&self, method: &Method) -> usize {
        self.asked().iter().filter(|asked| asked.method == *method).count()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn json(status: StatusCode, body: serde_json::Value) -> Response {
    let builder = Response::builder().status(status).header("content-type", "application/json");
    builder.body(Body::from(body.to_string())).unwrap()
}

pub fn message(status: StatusCode, message: &str) -> Response {
    json(status, serde_json::json!({ "message": message }))
}
