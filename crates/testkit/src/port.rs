//! Free ports on loopback, chosen here and not by Docker, which would choose another
//! one each time a container starts.

use std::net::{Ipv4Addr, TcpListener};

use crate::unique::random;

/// Below the range from which the system takes ports for outgoing connections: one of
/// those must not take a server's port while that server is stopped.
const FIRST: u16 = 18_000;
const COUNT: u64 = 14_000;

/// A port that nobody listens on now. Another process can still take it before its
/// server does, so the caller tries again with another one.
pub(crate) fn free() -> u16 {
    loop {
        let port = FIRST + (random() % COUNT) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
