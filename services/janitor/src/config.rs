//! `[janitor]`, and the sections that it shares.

use mecapy_registry::Registries;
use mecapy_service::{ConfigError, Schedule};
use serde::{Deserialize, Serialize};

use crate::plan::Policies;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(flatten)]
    pub service: mecapy_service::Options,
    pub nats: mecapy_bus::Options,
    pub postgres: mecapy_store::Options,
    pub s3: mecapy_objects::Options,
    pub registries: Registries,
    pub janitor: Options,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// When a run begins, UTC. None: only when it is asked for.
    pub schedule: Option<Schedule>,
    /// What goes when, by name; overridden key by key.
    pub policies: Policies,
    /// A run that would delete more than this share of the images that policies name, or free more than this share of
    /// the bytes, stops and asks to be confirmed.
    pub max_percent: u32,
    /// Nothing is deleted that the fallback registry does not hold by digest.
    pub require_mirrored: bool,
    /// Bytes that the registry may hold: the forecast and the alert go by it.
    pub storage_limit_bytes: u64,
    /// Repositories that are read, and images that are deleted, at once.
    pub concurrency: usize,
    pub sweep: crate::sweep::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            schedule: "0 3 * * *".parse().ok(),
            policies: Policies::default(),
            max_percent: 20,
            require_mirrored: false,
            storage_limit_bytes: 90_000_000_000,
            concurrency: 6,
            sweep: crate::sweep::Options::default(),
        }
    }
}

impl mecapy_service::Config for Config {
    fn service(&self) -> &mecapy_service::Options {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.registries.validate()?;
        self.janitor.policies.validate()?;
        self.janitor.sweep.validate()?;
        let refuse =
            |key: &str, problem: &str| Err(ConfigError::key(format!("janitor.{key}"), problem));
        if self.janitor.max_percent > 100 {
            return refuse("max_percent", "must be 0 to 100");
        }
        if self.janitor.concurrency == 0 {
            return refuse("concurrency", "must be at least 1");
        }
        if self.janitor.storage_limit_bytes == 0 {
            return refuse("storage_limit_bytes", "must be more than 0");
        }
        let longest = self.janitor.policies.0.values().map(|policy| policy.unused_days).max();
        if longest.is_some_and(|days| days > self.janitor.sweep.usage_days) {
            return refuse(
                "sweep.usage_days",
                "must be at least the longest unused_days of the policies: use that is forgotten does not count",
            );
        }
        if self.janitor.require_mirrored && self.registries.fallback.is_none() {
            return refuse("require_mirrored", "needs registries.fallback");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_a_run_applies_at_three_at_night_and_stops_at_a_fifth() {
        let options = Options::default();
        let schedule = options.schedule.unwrap();
        let next = schedule.next("2026-06-01T12:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(next.to_rfc3339(), "2026-06-02T03:00:00+00:00");
        assert_eq!((options.max_percent, options.storage_limit_bytes), (20, 90_000_000_000));
    }

    #[test]
    fn a_limit_that_makes_no_sense_names_its_key() {
        use mecapy_service::Config as _;
        let with = |change: fn(&mut Options)| {
            let mut config = Config::default();
            config.registries.primary.host = "registry".to_owned();
            change(&mut config.janitor);
            config.validate().err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(with(|_| {}), "");
        for (change, key) in [
            ((|options| options.max_percent = 101) as fn(&mut Options), "janitor.max_percent"),
            (|options| options.concurrency = 0, "janitor.concurrency"),
            (|options| options.storage_limit_bytes = 0, "janitor.storage_limit_bytes"),
            (|options| options.require_mirrored = true, "janitor.require_mirrored"),
            (|options| options.sweep.usage_days = 200, "janitor.sweep.usage_days"),
            (|options| options.sweep.housekeeping_limit_seconds = 0, "janitor.sweep.housekeeping"),
        ] {
            assert!(with(change).contains(key), "{key}: {}", with(change));
        }
    }
}
