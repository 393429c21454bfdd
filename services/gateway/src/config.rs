//! What the gateway is told.

use std::net::SocketAddr;
use std::time::Duration;

use mecapy_service::{ConfigError, Secret};
use serde::{Deserialize, Serialize};

use crate::Tokens;
use crate::validate::{is_python_version, is_variant};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(flatten)]
    pub service: mecapy_service::Options,
    pub nats: mecapy_bus::Options,
    pub postgres: mecapy_store::Options,
    pub s3: mecapy_objects::Options,
    pub gateway: Options,
    pub webhooks: mecapy_webhooks::Options,
    pub janitor: Janitor,
}

/// What is read of the janitor's section, where one file serves all: how full the registry may be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Janitor {
    pub storage_limit_bytes: u64,
}

impl Default for Janitor {
    fn default() -> Self {
        Self { storage_limit_bytes: 90_000_000_000 }
    }
}

/// The section `[gateway]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// For HTTP.
    pub listen: SocketAddr,
    /// For gRPC.
    pub grpc_listen: SocketAddr,
    /// Who may call: a line each, `owner:role:sha256`, the last being the SHA-256 of the token in hex, the role
    /// `owner` (own functions), `viewer` (looks at all, changes nothing) or `operator` (all). Better as `tokens_file`.
    pub tokens: Option<Secret>,
    /// Python versions that functions may ask for: those that base images are built for.
    pub python_versions: Vec<String>,
    /// Base image variants that functions may ask for.
    pub variants: Vec<String>,
    /// Longest `timeout_ms` that a task may ask for: what the workers allow.
    pub max_task_timeout_seconds: u64,
    /// New work is refused (503) when more messages than this wait to go out: NATS is away, or the queue of
    /// tasks is full.
    pub max_waiting_messages: u32,
    /// Calls that wait look into the database at least this often, should an event be missed.
    pub look_every_seconds: u64,
    /// The console's cookie goes over TLS alone: browsers then log in only over https, and on this machine itself.
    pub console_secure_cookie: bool,
    /// How long a log-in to the console lasts.
    pub console_session_hours: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            tokens: None,
            python_versions: ["3.11", "3.12", "3.13"].map(str::to_owned).to_vec(),
            variants: ["slim", "numpy", "scipy"].map(str::to_owned).to_vec(),
            max_task_timeout_seconds: 300,
            max_waiting_messages: 1_000,
            look_every_seconds: 2,
            console_secure_cookie: true,
            console_session_hours: 12,
        }
    }
}

impl Options {
    pub(crate) fn max_task_timeout(&self) -> Duration {
        Duration::from_secs(self.max_task_timeout_seconds)
    }

    pub(crate) fn tokens(&self) -> Result<Tokens, String> {
        Tokens::parse(self.tokens.as_ref().map_or("", Secret::expose))
    }

    pub(crate) fn look_every(&self) -> Duration {
        Duration::from_secs(self.look_every_seconds)
    }
}

impl mecapy_service::Config for Config {
    fn service(&self) -> &mecapy_service::Options {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let gateway = &self.gateway;
        gateway.tokens().map_err(|problem| ConfigError::key("gateway.tokens", problem))?;
        check_list("gateway.python_versions", &gateway.python_versions, is_python_version)?;
        check_list("gateway.variants", &gateway.variants, is_variant)?;
        if gateway.console_session_hours > 24 * 30 {
            return Err(ConfigError::key("gateway.console_session_hours", "must be at most 720"));
        }
        for (key, value) in [
            ("max_task_timeout_seconds", gateway.max_task_timeout_seconds),
            ("look_every_seconds", gateway.look_every_seconds),
            ("console_session_hours", gateway.console_session_hours),
        ] {
            if value == 0 {
                return Err(ConfigError::key(format!("gateway.{key}"), "must be at least 1"));
            }
        }
        Ok(())
    }
}

fn check_list(key: &str, values: &[String], fine: fn(&str) -> bool) -> Result<(), ConfigError> {
    if values.is_empty() {
        return Err(ConfigError::key(key, "name at least one"));
    }
    match values.iter().find(|value| !fine(value)) {
        Some(bad) => Err(ConfigError::key(key, format!("{bad:?} is none"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use mecapy_service::Config as _;

    use super::*;

    fn problem(change: impl FnOnce(&mut Options)) -> Option<String> {
        let mut config = Config::default();
        config.gateway.tokens = Some(Secret::new(format!("acme:owner:{}", "0".repeat(64))));
        change(&mut config.gateway);
        config.validate().err().map(|error| error.to_string())
    }

    #[test]
    fn a_config_with_tokens_is_enough() {
        assert_eq!(problem(|_| {}), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let no_tokens = problem(|gateway| gateway.tokens = None);
        assert!(no_tokens.is_some_and(|text| text.starts_with("gateway.tokens: ")));
        let python = problem(|gateway| gateway.python_versions = vec!["2.7".into()]);
        assert_eq!(python.as_deref(), Some("gateway.python_versions: \"2.7\" is none"));
        let variants = problem(|gateway| gateway.variants.clear());
        assert_eq!(variants.as_deref(), Some("gateway.variants: name at least one"));
    }
}
