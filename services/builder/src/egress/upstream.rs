//! How this process gets to the index: directly, or by the operators' proxy.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

use crate::options::Options;

/// For the connection, and for the operators' proxy to make one.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 8 << 10;

/// A proxy of the operators.
#[derive(Clone, PartialEq, Eq)]
struct Hop {
    host: String,
    port: u16,
    /// `user:password`, encoded for a header.
    basic: Option<String>,
}

impl std::fmt::Debug for Hop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hop({}:{})", self.host, self.port)
    }
}

#[derive(Debug, Clone, Default)]
pub struct Upstream {
    http: Option<Hop>,
    https: Option<Hop>,
    direct: Vec<String>,
}

/// A connection to where a request goes next.
pub struct Next {
    pub stream: TcpStream,
    /// The request line must name the whole URL, and the header goes with it: it goes to a proxy.
    pub to_proxy: Option<ProxyHeader>,
}

/// `Proxy-Authorization: …` with its line end, or nothing.
pub struct ProxyHeader(pub String);

impl Upstream {
    pub fn of(options: &Options) -> Self {
        let hop =
            |url: &Option<mecapy_service::Secret>| url.as_ref().and_then(|url| hop(url.expose()));
        let direct = options.no_proxy.iter().flat_map(|list| list.split(','));
        Self {
            http: hop(&options.http_proxy),
            https: hop(&options.https_proxy),
            direct: direct.map(|entry| entry.trim().to_ascii_lowercase()).collect(),
        }
    }

    /// A connection through which bytes get to `host:port` as they are.
    pub async fn tunnel(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        within(async {
            match self.https.as_ref().filter(|_| !self.is_direct(host)) {
                None => connect(host, port).await,
                Some(hop) => {
                    let mut stream = connect(&hop.host, hop.port).await?;
                    let host =
                        if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
                    let ask = format!(
                        "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{}\r\n",
                        hop.header()
                    );
                    stream.write_all(ask.as_bytes()).await?;
                    read_consent(&mut stream).await?;
                    Ok(stream)
                }
            }
        })
        .await
    }

    /// A connection for one plain HTTP request.
    pub async fn plain(&self, host: &str, port: u16) -> io::Result<Next> {
        within(async {
            match self.http.as_ref().filter(|_| !self.is_direct(host)) {
                None => Ok(Next { stream: connect(host, port).await?, to_proxy: None }),
                Some(hop) => Ok(Next {
                    stream: connect(&hop.host, hop.port).await?,
                    to_proxy: Some(ProxyHeader(hop.header())),
                }),
            }
        })
        .await
    }

    /// As curl and its kin read `no_proxy`: `*`, a host, or a domain with all below it.
    fn is_direct(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.direct.iter().any(|entry| {
            let domain = entry.trim_start_matches("*.").trim_start_matches('.');
            entry == "*"
                || (!domain.is_empty()
                    && (host == domain
                        || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))))
        })
    }
}

impl Hop {
    fn header(&self) -> String {
        match &self.basic {
            Some(basic) => format!("Proxy-Authorization: Basic {basic}\r\n"),
            None => String::new(),
        }
    }
}

/// `http://user:password@host:port`. `Err`: what is wrong with it.
pub(crate) fn proxy_address(url: &str) -> Result<(), &'static str> {
    match Url::parse(url) {
        Ok(url) if url.scheme() != "http" => Err("must begin with http://"),
        Ok(url) if url.host_str().is_none() => Err("names no host"),
        Ok(_) => Ok(()),
        Err(_) => Err("is no URL, as http://proxy.example:3128"),
    }
}

fn hop(url: &str) -> Option<Hop> {
    proxy_address(url).ok()?;
    let parsed = Url::parse(url).ok()?;
    let basic = (!parsed.username().is_empty()).then(|| {
        let password = parsed.password().unwrap_or_default();
        base64(&[percent_decoded(parsed.username()), percent_decoded(password)].join(&b':'))
    });
    let host = parsed.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Hop { host, port: parsed.port_or_known_default()?, basic })
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(CONNECT_WITHIN, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")))
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    // Where clouds tell a machine its own secrets, whoever's name leads there.
    found.retain(|address| !is_of_a_cloud(address.ip()));
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address to connect to",
        ));
    }
    let stream = TcpStream::connect(found.as_slice()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Addresses at which clouds answer a machine: the link-local ones; Alibaba's and Oracle's own; Amazon's of IPv6; and
/// any of them by way of NAT64 (RFC 6052).
fn is_of_a_cloud(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_link_local() || [[100, 100, 100, 200], [192, 0, 0, 192]].contains(&v4.octets())
        }
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                is_of_a_cloud(IpAddr::from([a, b, c, d]))
            }
            segments => v6.is_unicast_link_local() || segments[..3] == [0xfd00, 0xec2, 0],
        },
    }
}

/// Reads the head of the proxy's answer, byte by byte: what follows it is the connection's.
async fn read_consent(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_ANSWER {
            return Err(io::Error::other("the proxy's answer does not end"));
        }
        head.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        _ => Err(io::Error::other(format!("the proxy of operators says {line:?}"))),
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).and_then(|&b| char::from(b).to_digit(16));
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use mecapy_service::Secret;

    use super::*;

    #[test]
    fn addresses_of_clouds_are_never_connected_to() {
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "192.0.0.192",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert!(is_of_a_cloud(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "10.0.0.1", "1.1.1.1", "fd00::1", "::1"] {
            assert!(!is_of_a_cloud(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn hosts_of_no_proxy_are_reached_directly() {
        let options = Options {
            https_proxy: Some(Secret::new("http://proxy:3128")),
            no_proxy: Some("localhost, .corp.example,10.0.0.5,*.x.example".to_owned()),
            ..Options::default()
        };
        let upstream = Upstream::of(&options);
        for direct in ["localhost", "a.corp.example", "Corp.example", "10.0.0.5", "y.x.example"] {
            assert!(upstream.is_direct(direct), "{direct}");
        }
        for not in ["pypi.org", "evilcorp.example", "110.0.0.5", "x.example.org"] {
            assert!(!upstream.is_direct(not), "{not}");
        }
        assert!(Upstream { direct: vec!["*".into()], ..Upstream::default() }.is_direct("pypi.org"));
    }

    #[test]
    fn a_proxys_login_is_a_header_and_is_not_shown() {
        let hop = hop("http://me:p%40ss@proxy.example:3128/").unwrap();
        assert_eq!(hop.header(), "Proxy-Authorization: Basic bWU6cEBzcw==\r\n");
        assert_eq!(format!("{hop:?}"), "Hop(proxy.example:3128)");
        assert!(proxy_address("https://proxy.example").is_err());
        assert!(proxy_address("proxy.example:3128").is_err());
    }
}
