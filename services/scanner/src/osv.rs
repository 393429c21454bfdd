//! The embedded engine: packages from the image's layers, matched against OSV advisories in memory.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_registry::{Content, Descriptor};

use crate::advisory::Database;
use crate::engine::{DatabaseInfo, Engine, EngineInfo, Scan, Target};
use crate::image::{self, Layer};
use crate::layer::{LayerIndex, Limits, index_stream};
use crate::{Error, LayerCache, finding};

pub const NAME: &str = "osv";
/// Layers that one scan reads at once. Each takes a connection and a thread that decompresses.
const LAYERS_AT_ONCE: usize = 2;
/// Docker's own limit is 127.
const MAX_LAYERS: usize = 256;

pub struct Osv {
    database: Database,
    layers: LayerCache,
    limits: Limits,
    /// For one image.
    limit: Duration,
    max_age: chrono::Duration,
}

impl Osv {
    /// Reads the advisories at the path, else those that come with the program. Takes a moment: not for a runtime's
    /// thread.
    pub fn database(path: Option<&Path>) -> Result<Database, Error> {
        match path {
            Some(path) => Database::load(path, Utc::now()),
            None => Database::starter(),
        }
    }

    pub fn new(
        database: Database,
        layers: LayerCache,
        limits: Limits,
        limit: Duration,
        max_age: chrono::Duration,
    ) -> Self {
        Self { database, layers, limits, limit, max_age }
    }

    async fn layers(&self, target: Target<'_>) -> Result<Vec<Layer>, Error> {
        let manifest =
            target.registry.manifest(target.repository, &target.digest.to_string()).await?;
        let Content::Image { layers, .. } = manifest.parse()? else {
            return Err(Error::NotAnImage {
                digest: target.digest,
                media_type: manifest.media_type,
            });
        };
        if layers.len() > MAX_LAYERS {
            return Err(Error::TooManyLayers { layers: layers.len(), limit: MAX_LAYERS });
        }
        let digests: Vec<_> = layers.iter().map(|layer| layer.digest).collect();
        let mut known = self.layers.get(&digests).await?;
        let mut seen = HashSet::new();
        let missing: Vec<&Descriptor> = layers
            .iter()
            .filter(|layer| !known.contains_key(&layer.digest) && seen.insert(layer.digest))
            .collect();
        let reads: Vec<_> = missing.into_iter().map(|layer| self.layer(target, layer)).collect();
        let read: Vec<Layer> =
            stream::iter(reads).buffer_unordered(LAYERS_AT_ONCE).try_collect().await?;
        known.extend(read.into_iter().map(|layer| (layer.digest, layer.index)));
        let index = |digest| match known.get(&digest) {
            Some(index) => Ok(Layer { digest, index: Arc::clone(index) }),
            None => Err(Error::NotRead { digest }),
        };
        digests.into_iter().map(index).collect()
    }

    async fn layer(&self, target: Target<'_>, layer: &Descriptor) -> Result<Layer, Error> {
        let digest = layer.digest;
        let index = self.layers.get_or_read(digest, || self.read(target, layer)).await;
        let index = index.map_err(|source| Error::Layer { digest, source: Box::new(source) })?;
        Ok(Layer { digest, index })
    }

    async fn read(&self, target: Target<'_>, layer: &Descriptor) -> Result<LayerIndex, Error> {
        // Compressed already more than is read of it decompressed: not worth a download.
        if layer.size > self.limits.layer_bytes {
            return Err(Error::TooLarge { limit_bytes: self.limits.layer_bytes });
        }
        let blob = target.registry.blob(target.repository, layer).await?;
        index_stream(blob, &self.limits).await
    }
}

#[async_trait]
impl Engine for Osv {
    async fn scan(&self, target: Target<'_>) -> Result<Scan, Error> {
        self.check()?;
        let read = tokio::time::timeout(self.limit, self.layers(target)).await;
        let layers = read.map_err(|_| Error::TimedOut { limit: self.limit })??;
        let contents = image::merge(&layers);
        let findings = finding::find(&self.database, &contents.packages);
        let info = self.database.info();
        Ok(Scan {
            image: format!("{}/{}@{}", target.registry.host(), target.repository, target.digest),
            digest: target.digest,
            engine: EngineInfo {
                name: NAME.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            database: DatabaseInfo {
                version: info.version.clone(),
                partial: info.partial,
                newest: info.newest,
                advisories: info.advisories,
            },
            contents,
            findings,
        })
    }

    fn check(&self) -> Result<(), Error> {
        self.database.check_age(Utc::now(), self.max_age)
    }
}
