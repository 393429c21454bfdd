//! `[scanner]`, and the sections that it shares.

use std::path::PathBuf;
use std::time::Duration;

use mecapy_registry::Registries;
use mecapy_service::ConfigError;
use serde::{Deserialize, Serialize};

use crate::layer::Limits;
use crate::rematch::OnRevoked;
use crate::{code_scanning, policy, trivy};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(flatten)]
    pub service: mecapy_service::Options,
    pub nats: mecapy_bus::Options,
    pub postgres: mecapy_store::Options,
    pub s3: mecapy_objects::Options,
    pub registries: Registries,
    pub scanner: Options,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What finds.
    pub engine: EngineName,
    pub trivy: trivy::Options,
    /// The file that `mecapy advisories` makes. It may come and be replaced while the scanner runs; until it is
    /// there, nothing is scanned. None: the starter set, and every result says that it is partial.
    pub database: Option<PathBuf>,
    /// Nothing is scanned with an imported database whose newest advisory is older.
    pub database_max_age_days: u32,
    /// What follows from findings.
    pub policy: policy::Options,
    /// What becomes of an image that had passed, and that a newer database rejects: refuse, or flag alone.
    pub revoked: OnRevoked,
    /// Where findings of base images are shown.
    pub code_scanning: code_scanning::Options,
    /// Images that are scanned at once.
    pub concurrency: usize,
    /// For one image.
    pub limit_seconds: u64,
    /// Of one layer.
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// Embedded: it needs no service and no network.
    Osv,
    /// The real program.
    Trivy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: EngineName::Osv,
            trivy: trivy::Options::default(),
            database: None,
            database_max_age_days: 7,
            policy: policy::Options::default(),
            revoked: OnRevoked::Refuse,
            code_scanning: code_scanning::Options::default(),
            concurrency: 8,
            limit_seconds: 120,
            limits: Limits::default(),
        }
    }
}

impl Options {
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.limit_seconds)
    }

    pub fn database_max_age(&self) -> chrono::Duration {
        chrono::Duration::days(self.database_max_age_days.into())
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let refuse =
            |key: &str, problem: String| Err(ConfigError::key(format!("scanner.{key}"), problem));
        for (key, value) in [
            ("concurrency", self.concurrency as u64),
            ("limit_seconds", self.limit_seconds),
            ("database_max_age_days", self.database_max_age_days.into()),
            ("limits.layer_entries", self.limits.layer_entries),
            ("limits.layer_bytes", self.limits.layer_bytes),
            ("limits.file_bytes", self.limits.file_bytes),
            ("limits.index_bytes", self.limits.index_bytes),
        ] {
            if value == 0 {
                return refuse(key, "must be at least 1".to_owned());
            }
        }
        self.policy.validate().or_else(|problem| refuse("policy", problem))?;
        self.trivy.validate().or_else(|problem| refuse("trivy", problem))?;
        self.code_scanning.validate().or_else(|problem| refuse("code_scanning", problem))
    }
}

impl mecapy_service::Config for Config {
    fn service(&self) -> &mecapy_service::Options {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.registries.validate()?;
        self.scanner.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_bad_value_names_its_key() {
        assert_eq!(Options::default().validate(), Ok(()));
        let problem = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.validate().unwrap_err().to_string()
        };
        assert!(problem(|o| o.concurrency = 0).starts_with("scanner.concurrency: "));
        assert!(problem(|o| o.policy.reject.clear()).starts_with("scanner.policy: "));
        assert!(problem(|o| o.limits.layer_bytes = 0).starts_with("scanner.limits.layer_bytes: "));
    }
}
