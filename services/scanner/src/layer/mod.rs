//! What one layer says of an image's packages: read once, kept under the layer's digest for every image that has it.

mod apk;
mod archive;
mod decompress;
mod dpkg;
mod index;
mod os_release;
mod python;
mod stream;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use index::{index, remove_below, remove_tree};
pub use stream::index_stream;

use crate::package::{OsRelease, Source};

/// Part of the key under which an index is kept. Raise it whenever the same layer would give another index:
/// a key of the digest alone goes stale when the reader changes.
pub const ANALYSER_VERSION: &str = "2";

/// How much of a layer is read before it is refused: hostile layers cost bounded time and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub layer_entries: u64,
    /// Decompressed.
    pub layer_bytes: u64,
    /// Of one package manager's file.
    pub file_bytes: u64,
    /// Of the paths and packages that are kept of one layer.
    pub index_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_entries: 1_000_000,
            layer_bytes: 4 << 30,
            file_bytes: 16 << 20,
            index_bytes: 32 << 20,
        }
    }
}

/// What a layer adds and hides. Paths have no leading slash; the root is "".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerIndex {
    /// The files that say something of packages.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Facts>,
    /// Paths of lower layers that are gone, with all below them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub whiteouts: BTreeSet<String>,
    /// Directories that show nothing of lower layers.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub opaque: BTreeSet<String>,
    /// Symlinks: one that stands where a lower layer has a directory hides all that is in it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub links: BTreeSet<String>,
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Facts {
    /// An installed Python distribution. The name is normalised.
    Python {
        name: String,
        version: String,
    },
    /// Packages that dpkg has installed.
    Dpkg(Vec<DpkgPackage>),
    /// Packages that apk has installed.
    Apk(Vec<ApkPackage>),
    /// Of the files of a distribution's package, those that Python packages are found by.
    DpkgFiles {
        package: String,
        paths: Vec<String>,
    },
    OsRelease(OsRelease),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DpkgPackage {
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApkPackage {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// What it was built from.
    pub origin: String,
    /// Its files that Python packages are found by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub python: Vec<String>,
}
