//! One connection of a build: what it asks for, whether it may, and the bytes to and fro.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use url::Url;

use super::allowed::{Allowed, host_and_port};
use super::refused::Session;
use super::tunnel::{Connection, Down, MAX_CONNECTIONS, Opened, Sent};
use super::upstream::{ProxyHeader, Upstream};
use crate::metric_definitions;

const MAX_HEAD: usize = 32 << 10;
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// How long the index may be silent when a client has said all that it will.
const LAST_WORDS: Duration = Duration::from_secs(60);
const PIECE: usize = 64 << 10;

/// Where builds may go, and how.
#[derive(Debug)]
pub struct Proxy {
    pub allowed: Allowed,
    pub upstream: Upstream,
}

/// A request's head, as far as a proxy reads it.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    host: String,
    port: u16,
    /// None: bytes are passed on as they are (`CONNECT`).
    plain: Option<Plain>,
}

/// A request for a URL.
#[derive(Debug, PartialEq, Eq)]
struct Plain {
    method: String,
    url: Url,
    /// Without those that are about this connection.
    headers: Vec<String>,
}

/// Why a connection comes to nothing, as the client is told.
struct Refusal {
    status: &'static str,
    reason: String,
}

impl Refusal {
    async fn tell(self, down: Down) {
        let body = format!("{}\n", self.reason);
        let (status, length) = (self.status, body.len());
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        if down.send(Bytes::from(answer)).await {
            down.finish();
        }
    }
}

impl Proxy {
    /// One connection of the session's step, to its end.
    pub async fn serve(self: Arc<Self>, opened: Opened, session: Arc<Session>) {
        let Connection { mut up, down } = match opened {
            Opened::Connection(connection) => connection,
            Opened::TooMany(down) => {
                metric_definitions::egress("too_many");
                session.refuse_connection();
                let reason = format!("a build may have {MAX_CONNECTIONS} connections at once");
                return Refusal { status: "503 Service Unavailable", reason }.tell(down).await;
            }
        };
        match self.connect(&mut up, &session).await {
            Ok((first, stream, answer)) => {
                metric_definitions::egress("allowed");
                if down.send(answer).await {
                    pass(first, stream.into_split(), &mut up, down, LAST_WORDS).await;
                }
            }
            Err(refusal) => refusal.tell(down).await,
        }
    }

    /// What is to be sent on first, the connection to where it goes, and what the client hears before its answer.
    async fn connect(
        &self,
        up: &mut tokio::sync::mpsc::Receiver<Sent>,
        session: &Session,
    ) -> Result<(Bytes, TcpStream, Bytes), Refusal> {
        let read = tokio::time::timeout(HEAD_WITHIN, read_head(up));
        let (head, rest) = read.await.ok().flatten().ok_or_else(|| Refusal {
            status: "400 Bad Request",
            reason: "no request came".to_owned(),
        })?;
        let asked = parse(&head).ok_or_else(|| Refusal {
            status: "400 Bad Request",
            reason: "this is a proxy: it takes CONNECT, and requests for whole URLs".to_owned(),
        })?;
        let Asked { host, port, plain } = asked;
        if !self.allowed.permits(&host, port) {
            metric_definitions::egress("refused");
            session.refuse_host(&host, port);
            tracing::warn!(
                host,
                port,
                "a build asked for what is no host of the package index; builder.allowed_hosts would allow it"
            );
            return Err(Refusal {
                status: "403 Forbidden",
                reason: format!("{host}:{port} is no host of the package index"),
            });
        }
        let unreachable = |error: io::Error| {
            metric_definitions::egress("failed");
            tracing::warn!(
                host,
                port,
                error = &error as &dyn std::error::Error,
                "the package index can't be reached"
            );
            let status = if error.kind() == io::ErrorKind::TimedOut {
                "504 Gateway Timeout"
            } else {
                "502 Bad Gateway"
            };
            Refusal { status, reason: format!("{host}:{port} can't be reached: {error}") }
        };
        match plain {
            None => {
                let stream = self.upstream.tunnel(&host, port).await.map_err(unreachable)?;
                let answer = Bytes::from_static(b"HTTP/1.1 200 Connection established\r\n\r\n");
                Ok((rest, stream, answer))
            }
            Some(plain) => {
                let next = self.upstream.plain(&host, port).await.map_err(unreachable)?;
                let mut first = BytesMut::from(plain.rewritten(next.to_proxy).as_bytes());
                first.extend_from_slice(&rest);
                Ok((first.freeze(), next.stream, Bytes::new()))
            }
        }
    }
}

impl Plain {
    /// As it goes on: one request a connection, so that the next one is looked at too.
    fn rewritten(&self, to_proxy: Option<ProxyHeader>) -> String {
        let target = match to_proxy {
            Some(_) => self.url.to_string(),
            None => match self.url.query() {
                Some(query) => format!("{}?{query}", self.url.path()),
                None => self.url.path().to_owned(),
            },
        };
        let ours = to_proxy.map_or_else(String::new, |header| header.0);
        let theirs: String = self.headers.iter().map(|line| format!("{line}\r\n")).collect();
        format!("{} {target} HTTP/1.1\r\n{theirs}{ours}Connection: close\r\n\r\n", self.method)
    }
}

/// To the end of the head, and what came after it.
async fn read_head(up: &mut tokio::sync::mpsc::Receiver<Sent>) -> Option<(Bytes, Bytes)> {
    const END: &[u8] = b"\r\n\r\n";
    let mut read = BytesMut::new();
    loop {
        if let Some(at) = read.windows(END.len()).position(|bytes| bytes == END) {
            let head = read.split_to(at + END.len());
            return Some((head.freeze(), read.freeze()));
        }
        if read.len() > MAX_HEAD {
            return None;
        }
        match up.recv().await? {
            Sent::Data(data) => read.extend_from_slice(&data),
            Sent::End => return None,
        }
    }
}

/// Nothing that a next proxy could take for the end of a line, of the head, or for another request: what is passed on
/// is what was looked at.
fn parse(head: &[u8]) -> Option<Asked> {
    let mut lines = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?.split("\r\n");
    if lines.clone().any(|line| line.chars().any(|c| c.is_control() && c != '\t')) {
        return None;
    }
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    if words.next().is_some() || !is_method || !version.starts_with("HTTP/1.") {
        return None;
    }
    if method == "CONNECT" {
        let (host, port) = host_and_port(target)?;
        return Some(Asked { host: host.to_owned(), port: port?, plain: None });
    }
    let url = Url::parse(target).ok().filter(|url| url.scheme() == "http")?;
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default()?;
    let of_this_hop =
        ["connection", "proxy-connection", "proxy-authorization", "keep-alive", "host"];
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str()?),
        None => url.host_str()?.to_owned(),
    };
    // What the URL says counts: the host that was checked is the host that is asked.
    let mut headers = vec![format!("Host: {authority}")];
    for line in lines {
        let (name, _) = line.split_once(':')?;
        if name.is_empty() || !name.bytes().all(is_of_a_token) {
            return None;
        }
        if !of_this_hop.contains(&name.to_ascii_lowercase().as_str()) {
            headers.push(line.to_owned());
        }
    }
    Some(Asked { host, port, plain: Some(Plain { method: method.to_owned(), url, headers }) })
}

/// RFC 9110, 5.6.2.
fn is_of_a_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Until the far end has said all, or either breaks. A client that has said all may listen for as long as the far end
/// goes on talking.
async fn pass(
    first: Bytes,
    (mut read, mut write): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    up: &mut tokio::sync::mpsc::Receiver<Sent>,
    down: Down,
    last_words: Duration,
) {
    let (has_said_all, mut said_all) = watch::channel(false);
    let outward = async {
        if write.write_all(&first).await.is_ok() && pass_out(up, &mut write).await {
            let _ = write.shutdown().await;
            has_said_all.send_replace(true);
            std::future::pending().await
        }
    };
    let inward = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            let silence = async {
                let _ = said_all.wait_for(|said_all| *said_all).await;
                tokio::time::sleep(last_words).await;
            };
            let count = tokio::select! {
                biased;
                count = read.read_buf(&mut buffer) => count,
                () = silence => return false,
            };
            match count {
                Ok(0) => return true,
                Ok(_) => {
                    if !down.send(buffer.split().freeze()).await {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    };
    let is_whole = tokio::select! {
        () = outward => false,
        is_whole = inward => is_whole,
    };
    if is_whole {
        down.finish();
    }
}

/// True: the client has sent all; false: one of the two is broken.
async fn pass_out(
    up: &mut tokio::sync::mpsc::Receiver<Sent>,
    write: &mut (impl AsyncWrite + Unpin),
) -> bool {
    loop {
        match up.recv().await {
            Some(Sent::Data(data)) => {
                if write.write_all(&data).await.is_err() {
                    return false;
                }
            }
            Some(Sent::End) => return true,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(head: &str) -> Option<Asked> {
        parse(head.as_bytes())
    }

    #[test]
    fn a_tunnel_names_host_and_port() {
        let head = "CONNECT pypi.org:443 HTTP/1.1\r\nHost: elsewhere:1\r\n\r\n";
        let expected = Asked { host: "pypi.org".into(), port: 443, plain: None };
        assert_eq!(asked(head), Some(expected));
        for bad in [
            "CONNECT pypi.org HTTP/1.1\r\n\r\n",
            "CONNECT http://pypi.org:443 HTTP/1.1\r\n\r\n",
            "CONNECT pypi.org:443\r\n\r\n",
            "CONNECT pypi.org:443 SSH/2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: pypi.org\r\n\r\n",
            "GET https://pypi.org/ HTTP/1.1\r\n\r\n",
            "GET ftp://pypi.org/ HTTP/1.1\r\n\r\n",
            "\r\n\r\n",
            "",
            // A second request for whoever takes a bare line feed for the end of a line.
            "GET http://index/ HTTP/1.1\r\nX: a\n\nGET http://169.254.169.254/ HTTP/1.1\nY: \r\n\r\n",
            "GET http://index/ HTTP/1.1\r\nX: a\rHost: b\r\n\r\n",
            "GET\nhttp://index/ HTTP/1.1\r\n\r\n",
            "GET\tA http://index/ HTTP/1.1\r\n\r\n",
            "GET http://index/ HTTP/1.1\r\nX: a\r\n folded: b\r\n\r\n",
            "GET http://index/ HTTP/1.1\r\nHost : b\r\n\r\n",
            "CONNECT pypi.org:443 HTTP/1.1\r\nX: a\n\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(asked(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_plain_request_goes_on_to_the_host_that_was_checked_and_closes_after_it() {
        let head = "GET http://index:3141/simple/six/?a=b HTTP/1.1\r\nHost: postgres:5432\r\n\
                    Proxy-Connection: keep-alive\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n";
        let asked = asked(head).unwrap();
        assert_eq!((asked.host.as_str(), asked.port), ("index", 3141));
        let plain = asked.plain.unwrap();
        assert_eq!(
            plain.rewritten(None),
            "GET /simple/six/?a=b HTTP/1.1\r\nHost: index:3141\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        let on = plain.rewritten(Some(ProxyHeader("Proxy-Authorization: Basic eA==\r\n".into())));
        assert!(on.starts_with("GET http://index:3141/simple/six/?a=b HTTP/1.1\r\n"), "{on}");
        assert!(on.contains("Proxy-Authorization: Basic eA==\r\n"), "{on}");
    }

    /// A far end that goes on talking, a piece every `pause`, to a client that has said all.
    async fn download(pieces: usize, pause: Duration, last_words: Duration) -> (usize, bool) {
        let (near, far) = tokio::io::duplex(1 << 10);
        let (connection, mut frames) = crate::egress::tunnel::connection_of_a_test();
        let Connection { mut up, down } = connection;
        let (mut heard, mut talk) = tokio::io::split(far);
        let far_end = async {
            let mut asked = Vec::new();
            heard.read_to_end(&mut asked).await.unwrap();
            for _ in 0..pieces {
                tokio::time::sleep(pause).await;
                if talk.write_all(b"piece").await.is_err() {
                    return;
                }
            }
            talk.shutdown().await.unwrap();
        };
        let passed = async {
            let first = Bytes::from_static(b"GET");
            pass(first, tokio::io::split(near), &mut up, down, last_words).await;
        };
        tokio::select! {
            ((), ()) = futures::future::join(passed, far_end) => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it does not end"),
        }
        let (mut bytes, mut is_whole) = (0, false);
        while let Ok(frame) = frames.try_recv() {
            match frame[0] {
                b'd' => bytes += frame.len() - 9,
                kind => is_whole = kind == b'e',
            }
        }
        (bytes, is_whole)
    }

    #[tokio::test]
    async fn a_download_goes_on_for_as_long_as_the_index_talks_though_the_client_has_said_all() {
        // Four times as long, all in all, as it may be silent.
        let (pause, last_words) = (Duration::from_millis(200), Duration::from_secs(1));
        assert_eq!(download(20, pause, last_words).await, (100, true));
        let (bytes, is_whole) = download(2, last_words * 3, last_words).await;
        assert!(bytes < 10 && !is_whole, "{bytes}");
    }
}
