//! The pipeline's own servers, for the commands that don't go through the gateway.

use std::path::Path;
use std::time::Duration;

use mecapy_bus::Bus;
use mecapy_service::chain;
use mecapy_store::PgPool;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::exit::Stop;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The sections of the services' configuration that these commands read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Servers {
    pub nats: mecapy_bus::Options,
    pub postgres: mecapy_store::Options,
    pub s3: mecapy_objects::Options,
    /// No file says which they are.
    #[serde(skip)]
    without_file: bool,
}

impl Servers {
    pub fn read(config: Option<&Path>) -> anyhow::Result<Self> {
        let servers: Self = mecapy_service::check(config)?;
        Ok(Self { without_file: config.is_none(), ..servers })
    }

    pub async fn bus(&self) -> Result<Bus, Stop> {
        let connected = self.connect_nats().await;
        connected.map_err(|reason| self.unreachable("NATS", &self.nats_shown(), &reason))
    }

    pub async fn pool(&self) -> Result<PgPool, Stop> {
        let connected = self.connect_postgres().await;
        connected.map_err(|reason| self.unreachable("PostgreSQL", &self.postgres_shown(), &reason))
    }

    fn unreachable(&self, server: &str, address: &str, reason: &str) -> Stop {
        let mut said = format!("{server} at {address}: {reason}");
        if self.without_file {
            said.push_str(
                " (no --config names the servers; with Compose: docker-compose run --rm setup mecapy …)",
            );
        }
        Stop::Unreachable(said)
    }

    /// The connection, or why there is none.
    pub async fn connect_nats(&self) -> Result<Bus, String> {
        Bus::connect_now("cli", &self.nats).await.map_err(|error| chain(&error))
    }

    pub async fn connect_postgres(&self) -> Result<PgPool, String> {
        reach(&self.postgres.url).await?;
        mecapy_store::connect(&self.postgres).await.map_err(|error| chain(&error))
    }

    pub fn nats_shown(&self) -> String {
        shown(&self.nats.url)
    }

    pub fn postgres_shown(&self) -> String {
        shown(&self.postgres.url)
    }
}

/// Whether anything listens there. The pool tries until its time is over, and then can't say why.
async fn reach(url: &str) -> Result<(), String> {
    let Some((host, port)) = address(url) else { return Ok(()) };
    match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// The host and port of a PostgreSQL URL; none where it names a socket, or the host elsewhere.
fn address(url: &str) -> Option<(String, u16)> {
    let url: reqwest::Url = url.parse().ok()?;
    let host = url.host_str().filter(|host| !host.is_empty() && !host.contains('%'))?;
    let elsewhere = url.query_pairs().any(|(key, _)| key.starts_with("host"));
    (!elsewhere).then(|| (host.trim_matches(['[', ']']).to_owned(), url.port().unwrap_or(5432)))
}

/// One URL or several by commas, without passwords.
pub fn shown(urls: &str) -> String {
    let without_password = |url: &str| match url.trim().parse::<reqwest::Url>() {
        Ok(mut parsed) if parsed.password().is_some() => {
            let _ = parsed.set_password(None);
            parsed.to_string()
        }
        _ => url.trim().to_owned(),
    };
    urls.split(',').map(without_password).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postgres_url_names_an_address_or_a_socket() {
        let address = |url| address(url).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(
            address("postgres://me@db.example.org/x").as_deref(),
            Some("db.example.org 5432")
        );
        assert_eq!(
            address("postgres://me@[::1]:6000/x?sslmode=require").as_deref(),
            Some("::1 6000")
        );
        for other in [
            "postgres://me@%2Frun%2Fpostgresql/x",
            "postgres:///x?host=/run/postgresql",
            "postgres://me@a/x?hostaddr=10.0.0.1",
            "?",
        ] {
            assert_eq!(address(other), None, "{other}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        assert_eq!(shown("postgres://me:pw@host:5432/db"), "postgres://me@host:5432/db");
        assert_eq!(
            shown("nats://a:pw@one:4222, nats://two:4222"),
            "nats://a@one:4222,nats://two:4222"
        );
    }
}
