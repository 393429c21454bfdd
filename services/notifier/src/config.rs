//! `[notifier]`, and the sections that it shares.

use std::path::PathBuf;
use std::time::Duration;

use mecapy_service::ConfigError;
use serde::{Deserialize, Serialize};

/// A try must end within the grace time of a process that is told to stop (`shutdown.grace_seconds`, 25 s by default).
const LONGEST_SECONDS: u64 = 30;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(flatten)]
    pub service: mecapy_service::Options,
    pub nats: mecapy_bus::Options,
    pub postgres: mecapy_store::Options,
    pub webhooks: mecapy_webhooks::Options,
    pub notifier: Options,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Tries at once.
    pub concurrency: u32,
    /// Of these, for one webhook.
    pub per_webhook: u32,
    /// What a receiver has for the status of its answer, from the look-up of its name on.
    pub timeout_seconds: u64,
    /// Certificates (PEM) that receivers may have besides those that the system trusts.
    pub ca_bundle: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { concurrency: 64, per_webhook: 4, timeout_seconds: 15, ca_bundle: None }
    }
}

impl Options {
    /// Of these, for all webhooks of one owner: as many as one webhook may have, and a quarter at least.
    pub(crate) fn per_owner(&self) -> u32 {
        self.per_webhook.max(self.concurrency / 4)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
}

impl mecapy_service::Config for Config {
    fn service(&self) -> &mecapy_service::Options {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let refuse =
            |key: &str, problem: &str| Err(ConfigError::key(format!("notifier.{key}"), problem));
        let options = &self.notifier;
        if options.concurrency == 0 {
            return refuse("concurrency", "must be at least 1");
        }
        if options.per_webhook == 0 || options.per_webhook > options.concurrency {
            return refuse("per_webhook", "must be 1 to notifier.concurrency");
        }
        if !(1..=LONGEST_SECONDS).contains(&options.timeout_seconds) {
            return refuse("timeout_seconds", "must be 1 to 30");
        }
        if options.ca_bundle.as_ref().is_some_and(|path| !path.is_file()) {
            return refuse("ca_bundle", "is not there");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mecapy_service::Config as _;

    use super::*;

    fn problem(change: impl FnOnce(&mut Options)) -> String {
        let mut config = Config::default();
        change(&mut config.notifier);
        config.validate().err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn by_default_only_https_to_public_addresses_is_called() {
        let config = Config::default();
        assert!(!config.webhooks.allow_http && !config.webhooks.allow_private);
        assert_eq!(problem(|_| {}), "");
    }

    #[test]
    fn no_owner_has_more_than_a_quarter_unless_one_webhook_may() {
        let per_owner = |concurrency, per_webhook| {
            Options { concurrency, per_webhook, ..Options::default() }.per_owner()
        };
        assert_eq!(Options::default().per_owner(), 16);
        assert_eq!((per_owner(8, 4), per_owner(3, 2), per_owner(1, 1)), (4, 2, 1));
    }

    #[test]
    fn a_limit_that_makes_no_sense_names_its_key() {
        for (text, key) in [
            (problem(|options| options.concurrency = 0), "notifier.concurrency"),
            (problem(|options| options.per_webhook = 0), "notifier.per_webhook"),
            (problem(|options| options.per_webhook = 65), "notifier.per_webhook"),
            (problem(|options| options.timeout_seconds = 0), "notifier.timeout_seconds"),
            (problem(|options| options.timeout_seconds = 31), "notifier.timeout_seconds"),
            (
                problem(|options| options.ca_bundle = Some("/not/there".into())),
                "notifier.ca_bundle",
            ),
        ] {
            assert!(text.starts_with(key), "{key}: {text}");
        }
    }
}
