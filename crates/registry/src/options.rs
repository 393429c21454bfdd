//! How one registry is reached.

use std::path::PathBuf;

use mecapy_service::{ConfigError, Secret};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::inventory::{GhcrInventory, ScalewayInventory};
use crate::{DistributionInventory, Error, Inventory, Registry};

/// One registry. Only `host` is required.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The registry's name inside image references: `rg.fr-par.scw.cloud`, `127.0.0.1:5001`.
    pub host: String,
    /// Where it is reached when that differs from `host`, as from inside Compose. Its scheme wins
    /// over `plain_http`.
    pub endpoint: Option<Url>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    /// HTTP without TLS. Credentials then cross the network in clear: for loopback and private
    /// networks only.
    pub plain_http: bool,
    /// What is uploaded at most, in bytes per second, by this process. None: no cap.
    pub max_bytes_per_second: Option<u64>,
    /// How long it may take to begin an answer, and to go on with one. An upload may stand still five times as long:
    /// after its last byte a registry may first move the blob to its place.
    pub patience_seconds: u64,
    /// PEM certificates trusted besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// How the janitor lists and deletes what it holds. None: by the registry API.
    pub inventory: Option<InventoryOptions>,
}

/// The API that tells what a registry holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum InventoryOptions {
    /// The registry API itself: Distribution 2.8 and later, with deletes allowed.
    Distribution,
    /// Scaleway's Container Registry API.
    Scaleway(ScalewayOptions),
    /// GitHub's Packages API.
    Ghcr(GhcrOptions),
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScalewayOptions {
    /// fr-par, nl-ams, pl-waw
    pub region: String,
    /// By its name, which repositories begin with.
    pub namespace: String,
    /// Of an API key that may read and delete in the registry.
    pub secret_key: Secret,
    /// None: https://api.scaleway.com
    pub api: Option<Url>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GhcrOptions {
    /// The organisation or user that repositories begin with.
    pub owner: String,
    /// It is a user, not an organisation.
    pub is_user: bool,
    /// A classic token with read:packages and delete:packages.
    pub token: Secret,
    /// None: https://api.github.com
    pub api: Option<Url>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: String::new(),
            endpoint: None,
            username: None,
            password: None,
            plain_http: false,
            max_bytes_per_second: None,
            patience_seconds: 60,
            ca_bundle: None,
            inventory: None,
        }
    }
}

impl Options {
    /// Lists and deletes what the registry holds.
    pub fn inventory(&self) -> Result<Box<dyn Inventory>, Error> {
        let registry = Registry::new(self)?.without_spans();
        Ok(match &self.inventory {
            None | Some(InventoryOptions::Distribution) => {
                Box::new(DistributionInventory::new(registry))
            }
            Some(InventoryOptions::Scaleway(scaleway)) => {
                Box::new(ScalewayInventory::new(registry, self, scaleway)?)
            }
            Some(InventoryOptions::Ghcr(ghcr)) => {
                Box::new(GhcrInventory::new(registry, self, ghcr)?)
            }
        })
    }

    /// `name` is the registry's in the configuration.
    pub(crate) fn validate(&self, name: &str) -> Result<(), ConfigError> {
        let key = |key: &str| format!("registries.{name}.{key}");
        let required = |at: &str, is_set: bool, what: &str| match is_set {
            true => Ok(()),
            false => Err(ConfigError::key(key(at), format!("must be set: {what}"))),
        };
        required("host", !self.host.is_empty(), "the registry's name in references")?;
        required("patience_seconds", self.patience_seconds > 0, "at least 1")?;
        let is_cap = self.max_bytes_per_second.is_none_or(|cap| cap > 0);
        required("max_bytes_per_second", is_cap, "at least 1, or left out")?;
        let secret = |secret: &Secret| !secret.expose().is_empty();
        match &self.inventory {
            None | Some(InventoryOptions::Distribution) => Ok(()),
            Some(InventoryOptions::Scaleway(scaleway)) => {
                required("inventory.region", !scaleway.region.is_empty(), "as fr-par")?;
                required("inventory.namespace", !scaleway.namespace.is_empty(), "its name")?;
                required("inventory.secret_key", secret(&scaleway.secret_key), "an API key's")
            }
            Some(InventoryOptions::Ghcr(ghcr)) => {
                required("inventory.owner", !ghcr.owner.is_empty(), "an organisation or user")?;
                required("inventory.token", secret(&ghcr.token), "with delete:packages")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(inventory: serde_json::Value) -> Result<Options, serde_json::Error> {
        serde_json::from_value(json!({"host": "h", "inventory": inventory}))
    }

    #[test]
    fn an_inventory_says_which_key_it_misses() {
        assert!(Options { host: "h".into(), ..Options::default() }.validate("primary").is_ok());
        assert!(read(json!({"kind": "distribution"})).unwrap().validate("primary").is_ok());
        for (inventory, missing) in [
            (json!({"kind": "scaleway"}), "inventory.region"),
            (json!({"kind": "scaleway", "region": "fr-par"}), "inventory.namespace"),
            (
                json!({"kind": "scaleway", "region": "fr-par", "namespace": "n"}),
                "inventory.secret_key",
            ),
            (json!({"kind": "ghcr"}), "inventory.owner"),
            (json!({"kind": "ghcr", "owner": "acme"}), "inventory.token"),
        ] {
            let error = read(inventory).unwrap().validate("fallback").unwrap_err().to_string();
            assert!(error.starts_with(&format!("registries.fallback.{missing}: ")), "{error}");
        }
        let capped = Options { max_bytes_per_second: Some(0), ..read(json!(null)).unwrap() };
        let error = capped.validate("primary").unwrap_err().to_string();
        assert!(error.starts_with("registries.primary.max_bytes_per_second: "), "{error}");
        assert!(read(json!({"kind": "quay"})).is_err());
        assert!(read(json!({"kind": "ghcr", "owner": "a", "tokens": "b"})).is_err());
    }

    #[test]
    fn a_secret_of_an_inventory_does_not_show() {
        let options = read(json!({"kind": "ghcr", "owner": "acme", "token": "ghp_x"})).unwrap();
        assert!(options.inventory().is_ok());
        let shown = format!("{options:?} {}", serde_json::to_string(&options).unwrap());
        assert!(!shown.contains("ghp_x"), "{shown}");
    }
}
