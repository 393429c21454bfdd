//! An engine in trouble: the real one, behind a socket that answers some calls itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mecapy_engine::{End, Engine, Error, Options};
use mecapy_testkit::unique;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::fixture::{container_exists, engine, function, run_of, run_whole};

/// The engine's own socket.
fn engine_socket() -> String {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").to_owned()
}

/// A socket in front of the engine's.
struct Front {
    socket: PathBuf,
    refused: Arc<AtomicUsize>,
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Answers each call whose path ends in `path` with `status`.
fn front(path: &'static str, status: u16) -> Front {
    let socket = std::env::temp_dir().join(unique("mecapy-engine-test"));
    let listener = UnixListener::bind(&socket).unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&refused);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move { serve(client, path, status, &counter).await });
        }
    });
    Front { socket, refused }
}

async fn serve(mut client: UnixStream, path: &str, status: u16, refused: &AtomicUsize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let (first, rest) = head.split_once("\r\n").unwrap();
    let target = first.split(' ').nth(1).unwrap().split('?').next().unwrap();
    if target.ends_with(path) {
        refused.fetch_add(1, Ordering::SeqCst);
        let body = r#"{"message":"no space left on device"}"#;
        let answer = format!(
            "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let _ = client.write_all(answer.as_bytes()).await;
        return;
    }
    // One call a connection, so that each call's head is seen; an upgraded one is its own connection anyway.
    let close = if rest.to_lowercase().contains("upgrade") { "" } else { "connection: close\r\n" };
    let mut engine = UnixStream::connect(engine_socket()).await.unwrap();
    engine.write_all(format!("{first}\r\n{close}{rest}").as_bytes()).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
}

async fn through(front: &Front) -> Engine {
    let host = Some(format!("unix://{}", front.socket.display()));
    Engine::connect(&Options { host, ..Options::default() }).await.unwrap()
}

#[tokio::test]
async fn an_engine_that_cannot_start_a_container_now_may_later() {
    let image = function(&engine().await, "open('/output.json', 'w').write('1')").await;
    let front = front("/start", 500);
    let request = run_of(&image);
    let name = request.name.clone();
    let error =
        through(&front).await.run(request, &CancellationToken::new()).await.map(drop).unwrap_err();
    assert_eq!(front.refused.load(Ordering::SeqCst), 1);
    assert!(error.is_transient(), "{error:?}");
    assert!(!container_exists(&name), "{name} is still there");
}

#[tokio::test]
async fn an_image_that_cannot_be_started_is_told_as_such() {
    let image = function(&engine().await, "").await;
    let front = front("/start", 400);
    let request = run_of(&image);
    let name = request.name.clone();
    let error =
        through(&front).await.run(request, &CancellationToken::new()).await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Start { .. }) && !error.is_transient(), "{error:?}");
    assert!(!container_exists(&name), "{name} is still there");
}

#[tokio::test]
async fn a_run_through_the_front_is_a_run() {
    let image = function(&engine().await, "open('/output.json', 'w').write('1')").await;
    let front = front("/nothing", 500);
    let engine = through(&front).await;
    let outcome = run_whole(&engine, run_of(&image), &CancellationToken::new()).await.unwrap();
    assert_eq!((outcome.end, outcome.output.unwrap().as_ref()), (End::Exited(0), &b"1"[..]));
}
