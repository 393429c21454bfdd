//! `[mirror]`, and the sections that it shares.

use mecapy_bus::topology::MAX_DELIVERIES;
use mecapy_registry::Registries;
use mecapy_service::{ConfigError, Schedule};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(flatten)]
    pub service: mecapy_service::Options,
    pub nats: mecapy_bus::Options,
    pub postgres: mecapy_store::Options,
    pub s3: mecapy_objects::Options,
    pub registries: Registries,
    pub mirror: Options,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// When a run begins, UTC. None: only when it is asked for.
    pub schedule: Option<Schedule>,
    /// Days of use that a run looks at, where the request does not say.
    pub window_days: u32,
    /// Images that a run copies, where the request does not say: the most used ones.
    pub limit: u32,
    /// How much of what a scheduled run leaves on the fallback is read back and hashed: 0 to 100.
    pub verify_percent: u32,
    /// Copy each image as soon as it is published, so that the scheduled run is an audit.
    pub on_publish: bool,
    /// Images that this process copies at once. All of them share the streams of the fallback.
    pub concurrency: usize,
    /// Deliveries of an image's message before a registry that is away is a failure of the image: 15 are 5 minutes.
    pub max_deliveries: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            schedule: "0 2 * * *".parse().ok(),
            window_days: 7,
            limit: 100,
            verify_percent: 0,
            on_publish: false,
            concurrency: 8,
            max_deliveries: 15,
        }
    }
}

impl mecapy_service::Config for Config {
    fn service(&self) -> &mecapy_service::Options {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.registries.validate()?;
        let Some(fallback) = &self.registries.fallback else {
            return Err(ConfigError::key(
                "registries.fallback",
                "must be set: the registry that the mirror copies to",
            ));
        };
        if fallback.host == self.registries.primary.host {
            return Err(ConfigError::key(
                "registries.fallback.host",
                "must be another registry than the primary",
            ));
        }
        self.mirror.validate()
    }
}

impl Options {
    fn validate(&self) -> Result<(), ConfigError> {
        let problem =
            |key: &str, problem: String| Err(ConfigError::key(format!("mirror.{key}"), problem));
        if self.window_days == 0 {
            return problem("window_days", "must be at least 1".to_owned());
        }
        if self.limit == 0 {
            return problem("limit", "must be at least 1".to_owned());
        }
        if self.verify_percent > 100 {
            return problem("verify_percent", "must be 0 to 100".to_owned());
        }
        if self.concurrency == 0 {
            return problem("concurrency", "must be at least 1".to_owned());
        }
        // The one that is one too many would be a dead letter, and the run would never end.
        if !(1..MAX_DELIVERIES).contains(&self.max_deliveries) {
            return problem("max_deliveries", format!("must be 1 to {}", MAX_DELIVERIES - 1));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mecapy_service::Config as _;

    use super::*;

    #[test]
    fn a_mirror_needs_a_second_registry() {
        let mut config = Config::default();
        config.registries.primary.host = "one.example".to_owned();
        let problem = |config: &Config| config.validate().unwrap_err().to_string();
        assert!(problem(&config).starts_with("registries.fallback: must be set"));
        config.registries.fallback = Some(config.registries.primary.clone());
        assert!(problem(&config).starts_with("registries.fallback.host: "));
        config.registries.fallback.as_mut().unwrap().host = "two.example".to_owned();
        assert_eq!(config.validate(), Ok(()));
        config.mirror.max_deliveries = MAX_DELIVERIES;
        assert!(problem(&config).starts_with("mirror.max_deliveries: "));
    }

    #[test]
    fn the_nightly_run_is_at_two_in_the_morning_utc_if_nothing_else_is_said() {
        let schedule = Config::default().mirror.schedule.unwrap();
        let after = |time: &str| schedule.next(time.parse().unwrap()).unwrap().to_rfc3339();
        assert_eq!(after("2025-10-03T01:59:59Z"), "2025-10-03T02:00:00+00:00");
        assert_eq!(after("2025-10-03T02:00:00Z"), "2025-10-04T02:00:00+00:00");
    }
}
