//! `[publisher]`, and the sections that it shares.

use mecapy_registry::Registries;
use mecapy_service::ConfigError;
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
    pub publisher: Options,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Images that are copied at once. Each uses up to ten streams.
    pub concurrency: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { concurrency: 4 }
    }
}

impl mecapy_service::Config for Config {
    fn service(&self) -> &mecapy_service::Options {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.registries.validate()?;
        if self.publisher.concurrency == 0 {
            return Err(ConfigError::key("publisher.concurrency", "must be at least 1"));
        }
        // One that waits for its turn at a tag holds a connection, and the one whose turn it is needs another.
        if self.publisher.concurrency + 2 > self.postgres.max_connections as usize {
            return Err(ConfigError::key(
                "publisher.concurrency",
                "must be at least 2 less than postgres.max_connections",
            ));
        }
        Ok(())
    }
}
