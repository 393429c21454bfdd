//! Where builds may connect to. Pure.

use url::Url;

use crate::options::Options;

/// PyPI, and where its files are.
const PYPI: [&str; 2] = ["pypi.org", "files.pythonhosted.org"];
const HTTPS: u16 = 443;
const HTTP: u16 = 80;

/// Hosts and ports, by name: what builds ask for is compared before any name is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(Vec<(String, u16)>);

impl Allowed {
    /// The index, the hosts of its files where it is PyPI, and what the operators name.
    pub fn of(options: &Options) -> Self {
        let mut allowed = Vec::new();
        let index = options.index_url.as_ref().and_then(|url| Url::parse(url.expose()).ok());
        let index =
            index.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
        match index {
            Some((host, port)) if !PYPI.contains(&host) => allowed.push((normal(host), port)),
            _ => allowed.extend(PYPI.map(|host| (host.to_owned(), HTTPS))),
        }
        for entry in &options.allowed_hosts {
            match host_and_port(entry) {
                Some((host, Some(port))) => allowed.push((normal(host), port)),
                Some((host, None)) => {
                    allowed.extend([HTTPS, HTTP].map(|port| (normal(host), port)));
                }
                None => {}
            }
        }
        Self(allowed)
    }

    pub fn permits(&self, host: &str, port: u16) -> bool {
        let host = normal(host);
        self.0.iter().any(|(known, at)| *known == host && *at == port)
    }
}

/// Without brackets and the root's dot, in lower case.
fn normal(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(crate) fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (host, port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if host.is_empty() || !host.bytes().all(plain) {
                return None;
            }
            (host, port)
        }
    };
    match port {
        None => Some((host, None)),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().ok().filter(|port| *port != 0).map(|port| (host, Some(port)))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use mecapy_service::Secret;

    use super::*;

    fn allowed(index: Option<&str>, hosts: &[&str]) -> Allowed {
        Allowed::of(&Options {
            index_url: index.map(Secret::new),
            allowed_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..Options::default()
        })
    }

    #[test]
    fn without_an_index_of_ones_own_it_is_pypi_and_its_files() {
        for index in [None, Some("https://pypi.org/simple")] {
            let allowed = allowed(index, &[]);
            assert!(allowed.permits("pypi.org", 443) && allowed.permits("PyPI.org.", 443));
            assert!(allowed.permits("files.pythonhosted.org", 443));
            for (host, port) in [
                ("pypi.org", 80),
                ("pypi.org", 22),
                ("pypi.org.evil.example", 443),
                ("evil.pypi.org", 443),
                ("169.254.169.254", 80),
                ("127.0.0.1", 5432),
                ("", 443),
            ] {
                assert!(!allowed.permits(host, port), "{host}:{port}");
            }
        }
    }

    #[test]
    fn an_index_of_ones_own_stands_in_the_place_of_pypi_with_its_port_alone() {
        let own = allowed(Some("http://u:p@10.0.0.5:3141/root/pypi/+simple/"), &[]);
        assert!(own.permits("10.0.0.5", 3141));
        assert!(!own.permits("10.0.0.5", 5432) && !own.permits("pypi.org", 443));
        let v6 = allowed(Some("https://[fd00::1]/simple"), &[]);
        assert!(v6.permits("[fd00::1]", 443) && v6.permits("fd00::1", 443));
    }

    #[test]
    fn operators_may_add_hosts() {
        let more = allowed(None, &["deb.debian.org", "files.example:8443", "[fd00::2]:99"]);
        assert!(more.permits("deb.debian.org", 80) && more.permits("deb.debian.org", 443));
        assert!(more.permits("files.example", 8443) && !more.permits("files.example", 443));
        assert!(more.permits("fd00::2", 99) && more.permits("pypi.org", 443));
    }

    #[test]
    fn what_is_no_host_is_none() {
        for bad in
            ["", ":1", "a:", "a:0", "a:65536", "a:1:2", "a/b", "http://a", "a b", "[a]:1", "*"]
        {
            assert_eq!(host_and_port(bad), None, "{bad:?}");
        }
    }
}
