//! Free ports on loopback, chosen here and not by Docker, which would choose another
//! one each time a container starts.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};

use crate::unique::random;

/// Below the range from which the system takes ports for outgoing connections: one of
/// those must not take a server's port while that server is stopped.
const FIRST: u16 = 18_000;
const COUNT: u64 = 14_000;

/// A port that no other test takes as long as this lives, also while nobody listens on it.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    /// Locked, until it is closed.
    _claim: File,
}

/// A port that nobody listens on now. Who is no test can still take it before its server
/// does, so the caller tries again with another one.
pub fn free_port() -> Port {
    let claims = std::env::temp_dir().join("mecapy-test-ports");
    std::fs::create_dir_all(&claims).expect("a folder can be made in the temporary one");
    for _ in 0..1_000 {
        let number = FIRST + (random() % COUNT) as u16;
        // One that somebody else has made may not be ours to open.
        let Ok(claim) = File::create(claims.join(number.to_string())) else { continue };
        if claim.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
            return Port { number, _claim: claim };
        }
    }
    panic!("no port can be claimed in {}", claims.display());
}
