//! Uploads to a server that answers as GitHub does.

use std::io::Read as _;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use mecapy_scanner::code_scanning::{CodeScanning, Options};
use mecapy_service::Secret;
use serde_json::{Value, json};

#[derive(Clone, Default)]
struct GitHub {
    uploads: Arc<Mutex<Vec<Value>>>,
    /// Answers before the first that is good.
    failures: Arc<Mutex<Vec<StatusCode>>>,
}

async fn commit(
    Path((_, _, branch)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> impl IntoResponse {
    assert_eq!(headers["accept"], "application/vnd.github.sha");
    match branch.as_str() {
        "heads/main" => (StatusCode::OK, "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567".to_owned()),
        _ => (StatusCode::NOT_FOUND, "no such branch".to_owned()),
    }
}

async fn upload(
    State(github): State<GitHub>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> impl IntoResponse {
    if headers["authorization"] != "Bearer s3cret" {
        return (StatusCode::FORBIDDEN, Json(json!({"message": "no"})));
    }
    if let Some(status) = github.failures.lock().unwrap().pop() {
        return (status, Json(json!({"message": "later"})));
    }
    github.uploads.lock().unwrap().push(body);
    (StatusCode::ACCEPTED, Json(json!({"id": "47177e22", "url": "x"})))
}

impl GitHub {
    async fn start(&self) -> Options {
        mecapy_service::install_tls();
        let app = Router::new()
            .route("/repos/{owner}/{name}/commits/{*branch}", get(commit))
            .route("/repos/{owner}/{name}/code-scanning/sarifs", post(upload))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Options {
            repository: Some("acme/images".to_owned()),
            token: Secret::new("s3cret"),
            api,
            ..Options::default()
        }
    }
}

#[tokio::test]
async fn findings_go_up_compressed_for_the_newest_commit_of_the_branch() {
    let github = GitHub::default();
    github.failures.lock().unwrap().push(StatusCode::SERVICE_UNAVAILABLE);
    let code_scanning = CodeScanning::new(&github.start().await).unwrap().unwrap();
    assert_eq!(code_scanning.upload(b"{\"version\":\"2.1.0\"}").await.unwrap(), "47177e22");
    let uploads = github.uploads.lock().unwrap();
    assert_eq!(uploads.len(), 1, "the first answer was to come later");
    assert_eq!(uploads[0]["commit_sha"], "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567");
    assert_eq!(uploads[0]["ref"], "refs/heads/main");
    let sarif = uploads[0]["sarif"].as_str().unwrap();
    let compressed = base64::engine::general_purpose::STANDARD.decode(sarif).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(compressed.as_slice()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "{\"version\":\"2.1.0\"}");
}

#[tokio::test]
async fn what_github_refuses_is_told_and_not_tried_again() {
    let github = GitHub::default();
    let options = github.start().await;
    let wrong = Options { token: Secret::new("guess"), ..options.clone() };
    let error = CodeScanning::new(&wrong).unwrap().unwrap().upload(b"{}").await.unwrap_err();
    assert!(error.to_string().contains("403") && !error.to_string().contains("guess"), "{error}");
    let nowhere = Options { git_ref: "refs/heads/gone".to_owned(), ..options };
    let error = CodeScanning::new(&nowhere).unwrap().unwrap().upload(b"{}").await.unwrap_err();
    assert!(error.to_string().contains("the branch"), "{error}");
    assert_eq!(github.uploads.lock().unwrap().len(), 0);
}

#[test]
fn it_is_off_unless_a_repository_is_named_and_then_needs_a_token() {
    assert!(CodeScanning::new(&Options::default()).unwrap().is_none());
    let options = Options { repository: Some("acme/images".to_owned()), ..Options::default() };
    assert!(options.validate().unwrap_err().contains("token"));
    let options =
        Options { token: Secret::new("x"), repository: Some("images".to_owned()), ..options };
    assert!(options.validate().unwrap_err().contains("owner/name"));
}
