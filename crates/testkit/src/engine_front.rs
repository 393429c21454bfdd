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
    /// Where the engine says the one, the other is heard.
    Instead { of: &'static str, heard: &'static str },
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

    /// In the answers to calls whose path ends in `path`, `heard` stands in the place of `of`.
    pub fn saying(heard: &'static str, of: &'static str, path: &'static str) -> Self {
        Self::start(path, Trouble::Instead { of, heard }, usize::MAX)
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
        let changed = match trouble {
            Trouble::Instead { of, heard } => with_instead(&answer, of, heard)?,
            _ => with_last_line_end_apart(&answer)?,
        };
        to_client.write_all(&changed).await.ok()?;
        to_client.shutdown().await.ok()
    };
    tokio::select! {
        answered = answer => answered,
        _ = tokio::io::copy(&mut from_client, &mut to_engine) => None,
    }
}

/// An answer in chunks, as two of them.
fn with_last_line_end_apart(answer: &[u8]) -> Option<Vec<u8>> {
    let (head, chunks) = head_and_body(answer)?;
    let body = of_chunks(chunks)?;
    let last = body.trim_ascii_end().len();
    let (said, line_end) = body.split_at(last);
    Some(in_chunks(head, &[said, line_end]))
}

/// An answer with other words in its body, which is text.
fn with_instead(answer: &[u8], of: &str, heard: &str) -> Option<Vec<u8>> {
    let (head, body) = head_and_body(answer)?;
    let text = std::str::from_utf8(head).ok()?.to_lowercase();
    let is_in_chunks = text.contains("transfer-encoding: chunked");
    let body = if is_in_chunks { of_chunks(body)? } else { body.to_vec() };
    let body = String::from_utf8(body).ok()?.replace(of, heard);
    let lines = std::str::from_utf8(head).ok()?.trim_end().lines();
    let is_kept = |line: &&str| !line.to_lowercase().starts_with("content-length:");
    let mut head: String = lines.filter(is_kept).flat_map(|line| [line, "\r\n"]).collect();
    if !is_in_chunks {
        head.push_str("transfer-encoding: chunked\r\n");
    }
    head.push_str("\r\n");
    Some(in_chunks(head.as_bytes(), &[body.as_bytes()]))
}

fn head_and_body(answer: &[u8]) -> Option<(&[u8], &[u8])> {
    let head_ends = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    Some(answer.split_at(head_ends))
}

fn of_chunks(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_ends = chunks.windows(2).position(|end| end == b"\r\n")?;
        let size = std::str::from_utf8(&chunks[..line_ends]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        let start = line_ends + 2;
        body.extend_from_slice(chunks.get(start..start + size)?);
        chunks = chunks.get(start + size + 2..)?;
    }
}

/// An answer whose body comes in these pieces, none of which is empty.
fn in_chunks(head: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
    let mut answer = head.to_vec();
    for piece in pieces.iter().chain([&&b""[..]]) {
        answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        answer.extend_from_slice(piece);
        answer.extend_from_slice(b"\r\n");
    }
    answer
}
