//! The registries of the pipeline, as every service is configured with them.

use mecapy_service::ConfigError;
use serde::{Deserialize, Serialize};

use crate::{Error, Inventory, Options, Registry};

/// `[registries.*]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registries {
    /// Where images run from.
    pub primary: Options,
    /// Where they are until they are scanned. None: on the primary, in repositories of their own.
    pub staging: Option<Options>,
    /// For when the primary is gone.
    pub fallback: Option<Options>,
}

impl Registries {
    pub fn primary(&self) -> Result<Registry, Error> {
        Registry::new(&self.primary)
    }

    pub fn staging(&self) -> Result<Registry, Error> {
        Registry::new(self.staging.as_ref().unwrap_or(&self.primary))
    }

    /// The same for a service that has the primary as well: where both are one registry, they keep one pace, and the
    /// same connections and tokens.
    pub fn staging_beside(&self, primary: &Registry) -> Result<Registry, Error> {
        self.staging.as_ref().map_or_else(|| Ok(primary.clone()), Registry::new)
    }

    /// Lists and deletes what staging holds.
    pub fn staging_inventory(&self) -> Result<Box<dyn Inventory>, Error> {
        self.staging.as_ref().unwrap_or(&self.primary).inventory()
    }

    pub fn fallback(&self) -> Result<Option<Registry>, Error> {
        self.fallback.as_ref().map(Registry::new).transpose()
    }

    /// What a service can't do without.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let named = [
            ("primary", Some(&self.primary)),
            ("staging", self.staging.as_ref()),
            ("fallback", self.fallback.as_ref()),
        ];
        for (name, options) in named {
            if let Some(options) = options {
                options.validate(name)?;
            }
        }
        Ok(())
    }
}
