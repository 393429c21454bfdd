//! The sections of the configuration that the builder reads.

use mecapy_registry::Registries;
use mecapy_service::ConfigError;
use serde::{Deserialize, Serialize};

use crate::options::Options;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(flatten)]
    pub service: mecapy_service::Options,
    pub nats: mecapy_bus::Options,
    pub postgres: mecapy_store::Options,
    pub s3: mecapy_objects::Options,
    pub registries: Registries,
    pub docker: mecapy_engine::Options,
    pub builder: Options,
}

impl mecapy_service::Config for Config {
    fn service(&self) -> &mecapy_service::Options {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.registries.validate()?;
        self.builder.validate()
    }
}
