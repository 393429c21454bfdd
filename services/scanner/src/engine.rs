//! What finds: a program or a library that reads an image and knows advisories.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use mecapy_registry::{Digest, Registry};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::finding::Finding;
use crate::image::Contents;

/// An image in a registry.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub registry: &'a Registry,
    pub repository: &'a str,
    pub digest: Digest,
}

/// What an engine found. It says nothing of what follows from it: that is the verdict's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// `host/repository@digest`
    pub image: String,
    pub digest: Digest,
    pub engine: EngineInfo,
    pub database: DatabaseInfo,
    #[serde(flatten)]
    pub contents: Contents,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// The image's layers, the base first, where the engine keeps their indexes.
    #[serde(skip)]
    pub layers: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    pub name: String,
    pub version: String,
}

/// What the engine knew when it looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseInfo {
    pub version: String,
    /// It knows few advisories, or nothing of some of the image's packages: nothing found means little.
    pub partial: bool,
    pub newest: Option<DateTime<Utc>>,
    /// How old the oldest part of it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_hours: Option<i64>,
    pub advisories: usize,
    /// What it knows: advisories by ecosystem.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ecosystems: BTreeMap<String, usize>,
    /// Ecosystems of packages in the image that it knows nothing of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_ecosystems: Vec<String>,
}

#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Scans an image, or says why it can't. An image that wasn't wholly read is an error.
    async fn scan(&self, target: Target<'_>) -> Result<Scan, Error>;

    /// Why it would refuse every image now.
    fn check(&self) -> Result<(), Error>;
}
