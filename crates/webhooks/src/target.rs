//! Where a webhook leads: a URL that may be called.

use std::net::IpAddr;

use url::{Host, Url};

use crate::Options;
use crate::address::{self, Reason};

const MAX_BYTES: usize = 2_048;
/// Below are the ports of systems: mail, shells, name servers. None of them is a receiver.
const FIRST_FREE_PORT: u16 = 1_024;

/// Why a URL is not accepted, for whoever gave it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the URL has {0} bytes; at most 2048 are accepted")]
    TooLong(usize),
    #[error("that is not a URL: {0}")]
    NotAUrl(url::ParseError),
    #[error("the URL must begin with https://")]
    NotHttps,
    #[error("the URL must begin with https:// or http://")]
    Scheme,
    #[error("the URL has a user or password in it: messages are signed instead")]
    Credentials,
    #[error("the URL has a fragment (#…), which no server sees")]
    Fragment,
    #[error("port {0} is not called: use 443 (80 without TLS), or one from 1024 on")]
    Port(u16),
    #[error("the URL leads to {0}, which is not called")]
    Address(Reason),
    #[error("the URL has no host")]
    NoHost,
}

/// A URL that may be called. Where it names a host, its addresses are still to be checked when it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
    plain: bool,
}

impl Target {
    /// An address in the URL is known in whatever way it is written: decimal, octal, hexadecimal, short.
    pub fn parse(text: &str, options: Options) -> Result<Self, Refused> {
        if text.len() > MAX_BYTES {
            return Err(Refused::TooLong(text.len()));
        }
        let url = Url::parse(text).map_err(Refused::NotAUrl)?;
        let plain = match url.scheme() {
            "https" => false,
            "http" if options.allow_http => true,
            _ if options.allow_http => return Err(Refused::Scheme),
            _ => return Err(Refused::NotHttps),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        if url.fragment().is_some() {
            return Err(Refused::Fragment);
        }
        match url.port_or_known_default() {
            Some(443 | FIRST_FREE_PORT..) => {}
            Some(80) if plain => {}
            port => return Err(Refused::Port(port.unwrap_or_default())),
        }
        let allowed = |address: IpAddr| address::check(address, options).map_err(Refused::Address);
        match url.host().ok_or(Refused::NoHost)? {
            Host::Ipv4(address) => allowed(address.into())?,
            Host::Ipv6(address) => allowed(address.into())?,
            Host::Domain(name) if is_localhost(name) && !options.allow_private => {
                return Err(Refused::Address(Reason::Loopback));
            }
            Host::Domain(_) => {}
        }
        if url.as_str().len() > MAX_BYTES {
            return Err(Refused::TooLong(url.as_str().len()));
        }
        Ok(Self { url, plain })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Without TLS.
    pub fn is_plain(&self) -> bool {
        self.plain
    }
}

/// RFC 6761: such names are this host's.
fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Options = Options { allow_http: false, allow_private: false };
    const LENIENT: Options = Options { allow_http: true, allow_private: true };

    fn refused(url: &str) -> Option<Refused> {
        Target::parse(url, STRICT).err()
    }

    #[test]
    fn a_receiver_on_the_internet_is_accepted_as_it_is() {
        for url in [
            "https://hooks.example.com/mecapy?team=a",
            "https://hooks.example.com:8443/",
            "https://8.8.8.8/",
            "https://[2606:4700::1111]/x",
            "https://bücher.example/",
        ] {
            let target = Target::parse(url, STRICT).unwrap();
            assert!(!target.is_plain(), "{url}");
        }
    }

    #[test]
    fn an_address_is_known_however_it_is_written() {
        for url in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://0x7f.1/",
            "https://127.0.0.1./",
            "https://①②⑦.⓪.⓪.①/",
            "https://%31%32%37.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://x.localhost/",
        ] {
            assert_eq!(refused(url), Some(Refused::Address(Reason::Loopback)), "{url}");
        }
        for url in [
            "https://169.254.169.254/latest/meta-data/",
            "https://2852039166/",
            "https://0xa9fea9fe/",
            "https://0251.0376.0251.0376/",
            "https://[::ffff:169.254.169.254]/",
            "https://[fe80::1]/",
        ] {
            assert_eq!(refused(url), Some(Refused::Address(Reason::LinkLocal)), "{url}");
            assert!(Target::parse(url, LENIENT).is_err(), "{url}: by no setting");
        }
        assert_eq!(refused("https://10.0.0.7/"), Some(Refused::Address(Reason::Private)));
        assert_eq!(refused("https://[fd00::7]/"), Some(Refused::Address(Reason::Private)));
        assert_eq!(refused("https://0/"), Some(Refused::Address(Reason::NotAHost)));
    }

    #[test]
    fn what_is_not_a_receiver_is_refused_with_the_reason() {
        assert_eq!(refused("http://hooks.example.com/"), Some(Refused::NotHttps));
        assert_eq!(refused("file:///etc/passwd"), Some(Refused::NotHttps));
        assert_eq!(refused("gopher://hooks.example.com/"), Some(Refused::NotHttps));
        assert_eq!(refused("https://user:pass@hooks.example.com/"), Some(Refused::Credentials));
        assert_eq!(refused("https://hooks.example.com/#x"), Some(Refused::Fragment));
        for port in [22, 25, 53, 80, 445] {
            let url = format!("https://hooks.example.com:{port}/");
            assert_eq!(refused(&url), Some(Refused::Port(port)));
        }
        assert!(matches!(refused("https://"), Some(Refused::NotAUrl(_))));
        assert!(matches!(refused("hooks.example.com"), Some(Refused::NotAUrl(_))));
        assert!(matches!(refused("https://256.0.0.1/"), Some(Refused::NotAUrl(_))));
        let long = format!("https://hooks.example.com/{}", "a".repeat(2_048));
        assert!(matches!(refused(&long), Some(Refused::TooLong(_))));
        let grows = format!("https://hooks.example.com/{}", "ä".repeat(1_000));
        assert!(matches!(refused(&grows), Some(Refused::TooLong(_))), "as it is sent");
    }

    #[test]
    fn settings_for_development_let_a_receiver_on_this_machine_through() {
        let target = Target::parse("http://127.0.0.1:8000/hook", LENIENT).unwrap();
        assert!(target.is_plain());
        assert!(Target::parse("http://localhost:8000/hook", LENIENT).is_ok());
        assert!(Target::parse("http://hooks.example.com/", LENIENT).is_ok());
        assert_eq!(Target::parse("ftp://127.0.0.1:8000/", LENIENT), Err(Refused::Scheme));
    }
}
