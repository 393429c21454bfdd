//! What one step of a build asked for and did not get.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use mecapy_proto::ErrorCode;
use tokio_util::sync::CancellationToken;

use super::tunnel::MAX_CONNECTIONS;
use crate::rejection::Rejection;

/// More are not named to anybody.
const MAX_HOSTS: usize = 5;

/// The time in which a relay serves one step.
#[derive(Debug, Default)]
pub struct Session {
    refused: Mutex<Refused>,
    /// No connection outlives it.
    pub ended: CancellationToken,
}

impl Session {
    /// `host` is the name of a host or an address, and has nothing else in it.
    pub fn refuse_host(&self, host: &str, port: u16) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.hosts.len() < MAX_HOSTS {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            refused.hosts.insert(format!("{host}:{port}"));
        }
    }

    pub fn refuse_connection(&self) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).has_too_many_connections = true;
    }

    pub fn refused(&self) -> Refused {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// `host:port`, as `builder.allowed_hosts` takes it.
    hosts: BTreeSet<String>,
    has_too_many_connections: bool,
}

impl Refused {
    /// Why a step can't have come to a good end: another try is refused the same.
    pub fn rejection(&self) -> Option<Rejection> {
        if !self.hosts.is_empty() {
            let hosts: Vec<_> = self.hosts.iter().map(|host| format!("`{host}`")).collect();
            return Some(Rejection::new(
                ErrorCode::HostNotAllowed,
                format!(
                    "the build was sent to {}, which is no host of the package index; operators can allow it with \
                     builder.allowed_hosts",
                    hosts.join(", ")
                ),
            ));
        }
        self.has_too_many_connections.then(|| {
            Rejection::new(
                ErrorCode::BuildFailed,
                format!("a step opened more than the {MAX_CONNECTIONS} connections that a build may have at once"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_named_once_and_not_without_end() {
        let session = Session::default();
        assert_eq!(session.refused().rejection(), None);
        session.refuse_connection();
        let rejection = session.refused().rejection().unwrap();
        assert_eq!(rejection.code, ErrorCode::BuildFailed);
        assert!(rejection.message.contains("128 connections"), "{}", rejection.message);

        for port in [443, 443, 80] {
            session.refuse_host("files.example", port);
        }
        session.refuse_host("fd00::2", 443);
        let rejection = session.refused().rejection().unwrap();
        assert_eq!(rejection.code, ErrorCode::HostNotAllowed);
        for words in
            ["`files.example:443`", "`files.example:80`", "`[fd00::2]:443`", "allowed_hosts"]
        {
            assert!(rejection.message.contains(words), "{}", rejection.message);
        }
        for port in 0..1_000 {
            session.refuse_host("x", port);
        }
        assert_eq!(session.refused().hosts.len(), MAX_HOSTS);
    }
}
