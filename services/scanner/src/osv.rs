//! The embedded engine: packages from the image's layers, matched against OSV advisories in memory.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_advisories::Info;
use mecapy_registry::{Content, Descriptor, Digest};

use crate::cache::Read;
use crate::engine::{DatabaseInfo, Engine, EngineInfo, Scan, Target};
use crate::image::{self, Layer};
use crate::layer::{LayerIndex, Limits, index_stream};
use crate::{Advisories, Error, LayerCache, finding};

pub const NAME: &str = "osv";
/// Layers that one scan reads at once. Each takes a connection and a thread that decompresses.
const LAYERS_AT_ONCE: usize = 2;
/// Docker's own limit is 127.
const MAX_LAYERS: usize = 256;
/// Bytes of a top layer that is read while the store is asked for it. A function's is its code: new each time, and
/// small.
const SOONER_READ: u64 = 256 * 1024;

pub struct Osv {
    advisories: Advisories,
    layers: LayerCache,
    limits: Limits,
    /// For one image.
    limit: Duration,
}

/// The layers of an image, the base first.
struct Layers {
    layers: Vec<Layer>,
    /// Those that were not known before.
    read: Vec<Read>,
}

impl Osv {
    pub fn new(
        advisories: Advisories,
        layers: LayerCache,
        limits: Limits,
        limit: Duration,
    ) -> Self {
        Self { advisories, layers, limits, limit }
    }

    async fn layers(&self, target: Target<'_>) -> Result<Layers, Error> {
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
        let mut known = self.layers.remembered(&digests);
        let unknown: Vec<_> =
            digests.iter().filter(|digest| !known.contains_key(digest)).copied().collect();
        let top =
            layers.last().filter(|top| top.size <= SOONER_READ && !known.contains_key(&top.digest));
        let reading_top = async {
            let top = top?;
            Some((top.digest, self.read(target, top).await))
        };
        let (stored, mut top) = futures::join!(self.layers.stored(&unknown), reading_top);
        known.extend(stored?);
        let mut seen = HashSet::new();
        let missing: Vec<&Descriptor> = layers
            .iter()
            .filter(|layer| !known.contains_key(&layer.digest) && seen.insert(layer.digest))
            .collect();
        let reads: Vec<_> = missing
            .into_iter()
            .map(|layer| {
                let here = top.take_if(|(digest, _)| *digest == layer.digest);
                self.layer(target, layer, here.map(|(_, index)| index))
            })
            .collect();
        let read: Vec<(Digest, Read)> =
            stream::iter(reads).buffer_unordered(LAYERS_AT_ONCE).try_collect().await?;
        known.extend(read.iter().map(|(digest, read)| (*digest, Arc::clone(&read.index))));
        let index = |digest| match known.get(&digest) {
            Some(index) => Ok(Layer { digest, index: Arc::clone(index) }),
            None => Err(Error::NotRead { digest }),
        };
        Ok(Layers {
            layers: digests.into_iter().map(index).collect::<Result<_, _>>()?,
            read: read.into_iter().map(|(_, read)| read).collect(),
        })
    }

    /// `here`: what was read of it already.
    async fn layer(
        &self,
        target: Target<'_>,
        layer: &Descriptor,
        here: Option<Result<LayerIndex, Error>>,
    ) -> Result<(Digest, Read), Error> {
        let digest = layer.digest;
        let read = || async move {
            match here {
                Some(index) => index,
                None => self.read(target, layer).await,
            }
        };
        let read = self.layers.get_or_read(digest, read).await;
        let read = read.map_err(|source| Error::Layer { digest, source: Box::new(source) })?;
        Ok((digest, read))
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
        let now = Utc::now();
        // The one that the scan begins with, to its end.
        let database = self.advisories.current(now)?;
        let look = async {
            let Layers { layers, read } = self.layers(target).await?;
            let contents = image::merge(&layers);
            let found = finding::find(&database, &contents)?;
            // Whoever learns of a scan can count on it that a new database is matched with the image.
            for read in read {
                read.kept().await?;
            }
            Ok::<_, Error>((layers, contents, found))
        };
        let looked = tokio::time::timeout(self.limit, look).await;
        let (layers, contents, found) =
            looked.map_err(|_| Error::TimedOut { limit: self.limit })??;
        Ok(Scan {
            image: format!("{}/{}@{}", target.registry.host(), target.repository, target.digest),
            digest: target.digest,
            engine: EngineInfo {
                name: NAME.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            database: DatabaseInfo::of(database.info(), found.unknown_ecosystems, now),
            contents,
            findings: found.findings,
            layers: layers.iter().map(|layer| layer.digest).collect(),
        })
    }

    fn check(&self) -> Result<(), Error> {
        self.advisories.current(Utc::now())?;
        Ok(())
    }
}

impl DatabaseInfo {
    fn of(info: &Info, unknown_ecosystems: Vec<String>, now: DateTime<Utc>) -> Self {
        let ecosystems = info.ecosystems.iter();
        // Of the starter set that goes without saying.
        let unknown_ecosystems = if info.partial { Vec::new() } else { unknown_ecosystems };
        Self {
            version: info.version.clone(),
            partial: info.partial || !unknown_ecosystems.is_empty(),
            newest: info.newest,
            age_hours: info.age(now).map(|age| age.num_hours()),
            advisories: info.advisories,
            ecosystems: ecosystems.map(|(name, of)| (name.clone(), of.advisories)).collect(),
            unknown_ecosystems,
        }
    }
}
