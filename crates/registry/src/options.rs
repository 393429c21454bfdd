//! How one registry is reached.

use std::path::PathBuf;

use mecapy_service::Secret;
use serde::{Deserialize, Serialize};
use url::Url;

/// One registry. Only `host` is required.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
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
    /// PEM certificates trusted besides the system's.
    pub ca_bundle: Option<PathBuf>,
}
