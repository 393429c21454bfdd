//! Whether a server answers in its own protocol. A connection alone proves nothing:
//! Docker's proxy accepts before the server inside listens.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// What to send, and what the first bytes of the answer must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Probe {
    /// NATS greets with `INFO {...}`.
    Nats,
    /// PostgreSQL asks a start-up message for a password; while it recovers it refuses.
    Postgres,
    /// Any HTTP answer.
    Http(&'static str),
}

const ONE_TRY: Duration = Duration::from_secs(10);

/// Waits until the server on this port of 127.0.0.1 is ready; false when it is not
/// `within` that time.
pub(crate) async fn wait(port: u16, probe: Probe, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if let Ok(Ok(true)) = timeout(ONE_TRY, answers(port, probe)).await {
            return true;
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

async fn answers(port: u16, probe: Probe) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(&greeting(probe)).await?;
    let expected: &[u8] = match probe {
        Probe::Nats => b"INFO {",
        Probe::Postgres => b"R",
        Probe::Http(_) => b"HTTP/1.1 ",
    };
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer == expected)
}

fn greeting(probe: Probe) -> Vec<u8> {
    match probe {
        Probe::Nats => Vec::new(),
        Probe::Postgres => {
            // StartupMessage: its own length, protocol 3.0, names and values.
            let parameters = b"user\0postgres\0database\0postgres\0\0";
            let length = (8 + parameters.len()) as u32;
            [&length.to_be_bytes(), &196_608_u32.to_be_bytes(), &parameters[..]].concat()
        }
        Probe::Http(path) => {
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                .into_bytes()
        }
    }
}
