//! A socket in front of the container engine's own, where a call can go wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::unique;

/// Its socket goes with it.
pub struct EngineFront {
    socket: PathBuf,
    left: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
enum Trouble {
    /// The call doesn't get to the engine.
    Refused { status: u16 },
    /// The line end after the engine's last word comes by itself.
    LastLineEndApart,
}

impl Drop for EngineFront {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl EngineFront {
    /// The first calls whose path ends in `path` get this status, so many of them.
    pub fn refusing(path: &'static str, status: u16, times: usize) -> Self {
        Self::start(path, Trouble::Refused { status }, times)
    }

    /// The answers to calls whose path ends in `path` come with their last line end in a piece of its own.
    pub fn with_last_line_end_apart(path: &'static str) -> Self {
        Self::start(path, Trouble::LastLineEndApart, usize::MAX)
    }

    fn start(path: &'static str, trouble: Trouble, times: usize) -> Self {
        let socket = std::env::temp_dir().join(unique("mecapy-engine-front"));
        let listener = UnixListener::bind(&socket).expect("a socket in the temporary folder");
        let left = Arc::new(AtomicUsize::new(times));
        let counter = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, path, trouble, Arc::clone(&counter)));
            }
        });
        Self { socket, left }
    }

    /// As `docker.host` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// How many more will go wrong.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut client: UnixStream,
    path: &str,
    trouble: Trouble,
    left: Arc<AtomicUsize>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let (first, rest) = head.split_once("\r\n")?;
    let target = first.split(' ').nth(1)?.split('?').next()?;
    let take_one = |left: usize| left.checked_sub(1);
    let in_trouble = target.ends_with(path)
        && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one).is_ok();
    if let (Trouble::Refused { status }, true) = (trouble, in_trouble) {
        let body = r#"{"message":"no space left on device"}"#;
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} No\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        return client.write_all(answer.as_bytes()).await.ok();
    }
    // One call a connection, so that each call's head is seen; an upgraded one is its own connection anyway.
    let close = if rest.to_lowercase().contains("upgrade") { "" } else { "connection: close\r\n" };
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let socket = host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").to_owned();
    let mut engine = UnixStream::connect(socket).await.ok()?;
    engine.write_all(format!("{first}\r\n{close}{rest}").as_bytes()).await.ok()?;
    if !in_trouble {
        tokio::io::copy_bidirectional(&mut client, &mut engine).await.ok()?;
        return Some(());
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_engine, mut to_engine) = engine.split();
    let answer = async {
        let mut answer = Vec::new();
        from_engine.read_to_end(&mut answer).await.ok()?;
        to_client.write_all(&with_last_line_end_apart(&answer)?).await.ok()?;
        to_client.shutdown().await.ok()
    };
    tokio::select! {
        answered = answer => answered,
        _ = tokio::io::copy(&mut from_client, &mut to_engine) => None,
    }
}

/// An answer in chunks, as two of them.
fn with_last_line_end_apart(answer: &[u8]) -> Option<Vec<u8>> {
    let head_ends = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let (head, mut chunks) = answer.split_at(head_ends);
    let mut body = Vec::new();
    loop {
        let line_ends = chunks.windows(2).position(|end| end == b"\r\n")?;
        let size = std::str::from_utf8(&chunks[..line_ends]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            break;
        }
        let start = line_ends + 2;
        body.extend_from_slice(chunks.get(start..start + size)?);
        chunks = chunks.get(start + size + 2..)?;
    }
    let last = body.trim_ascii_end().len();
    let (said, line_end) = body.split_at(last);
    let mut apart = head.to_vec();
    for piece in [said, line_end, b""] {
        apart.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        apart.extend_from_slice(piece);
        apart.extend_from_slice(b"\r\n");
    }
    Some(apart)
}
