//! A socket in front of the engine's, that refuses some calls.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mecapy_testkit::unique;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

pub struct EngineFront {
    socket: PathBuf,
    left: Arc<AtomicUsize>,
}

impl Drop for EngineFront {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl EngineFront {
    /// The first calls whose path ends in `path` fail, so many of them.
    pub fn refusing(path: &'static str, times: usize) -> Self {
        let socket = std::env::temp_dir().join(unique("mecapy-worker-test"));
        let listener = UnixListener::bind(&socket).unwrap();
        let left = Arc::new(AtomicUsize::new(times));
        let counter = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, path, Arc::clone(&counter)));
            }
        });
        Self { socket, left }
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// How many more will fail.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }
}

async fn serve(mut client: UnixStream, path: &str, left: Arc<AtomicUsize>) {
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
    let take_one = |left: usize| left.checked_sub(1);
    if target.ends_with(path)
        && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok()
    {
        let body = r#"{"message":"not now"}"#;
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 500 No\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let _ = client.write_all(answer.as_bytes()).await;
        return;
    }
    // One call a connection, so that each call's head is seen; an upgraded one is its own connection anyway.
    let close = if rest.to_lowercase().contains("upgrade") { "" } else { "connection: close\r\n" };
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let socket = host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").to_owned();
    let mut engine = UnixStream::connect(socket).await.unwrap();
    engine.write_all(format!("{first}\r\n{close}{rest}").as_bytes()).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
}
