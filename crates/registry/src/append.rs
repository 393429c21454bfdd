//! Putting one layer on top of an image, inside the registry alone.
//!
//! ```text
//! base config ─ patch ─▶ config ─┐
//! files ─ tar ─ gzip ─▶ layer ───┼─▶ manifest ─▶ tag
//! base layers ─ mount ───────────┘
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::config_patch::sorted;
use crate::copy::{STREAMS, bring_blob};
use crate::holders::KNOWN_FOR;
use crate::layer::{self, Packed};
use crate::media_types::{
    DOCKER_FOREIGN_LAYER, DOCKER_LAYER_GZIP, OCI_CONFIG, OCI_FOREIGN_LAYER, OCI_LAYER_GZIP,
    OCI_MANIFEST,
};
use crate::registry::Registry;
use crate::{ConfigPatch, Content, Descriptor, Digest, Error, FolderLayer, Manifest, TarLayer};

const MAX_CONFIG: u64 = 8 * 1024 * 1024;
/// Configs that are remembered, each of some kilobytes.
const MAX_CONFIGS: usize = 256;
const MAX_HELD: usize = 10_000;
/// Tells scanners and people what an image stands on (image specification, annotations).
const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// The image below. It must be in the same registry as the target.
#[derive(Clone, Debug)]
pub struct Base {
    pub repository: String,
    pub manifest: Manifest,
}

/// The image made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    pub digest: Digest,
    /// Config and all layers, compressed as the registry holds them.
    pub size_bytes: u64,
    /// The layer put on top.
    pub layer: Descriptor,
}

/// Makes `target_repository:tag` of the base and one more layer. The base's blobs are mounted, so
/// only the layer and a config are sent. The same base, layer and patch give the same digest; then
/// nothing is sent again.
pub async fn append_layer(
    registry: &Registry,
    base: &Base,
    target_repository: &str,
    tag: &str,
    layer: TarLayer,
    patch: &ConfigPatch,
) -> Result<Appended, Error> {
    Appender::new(registry.clone()).append(base, target_repository, tag, layer, patch).await
}

/// Puts one layer after another on the same images: what it has seen of them it doesn't ask again.
#[derive(Debug)]
pub struct Appender {
    registry: Registry,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    configs: HashMap<Digest, Bytes>,
    /// Repositories, and manifests whose layers they hold, with when that was seen.
    held: HashMap<(String, Digest), Instant>,
}

impl Appender {
    pub fn new(registry: Registry) -> Self {
        Self { registry, seen: Mutex::default() }
    }

    /// As [`append_layer`].
    pub async fn append(
        &self,
        base: &Base,
        target_repository: &str,
        tag: &str,
        layer: TarLayer,
        patch: &ConfigPatch,
    ) -> Result<Appended, Error> {
        // Compressing may take long enough to hold up everything else on this thread.
        let packed = tokio::task::spawn_blocking(move || layer.pack())
            .await
            .map_err(|e| Error::Layer { reason: e.to_string() })??;
        self.append_packed(base, target_repository, tag, &packed, patch).await
    }

    /// As [`Appender::append`], with a whole folder.
    pub async fn append_folder(
        &self,
        base: &Base,
        target_repository: &str,
        tag: &str,
        layer: &FolderLayer,
        patch: &ConfigPatch,
    ) -> Result<Appended, Error> {
        self.append_packed(base, target_repository, tag, &layer.packed, patch).await
    }

    async fn append_packed(
        &self,
        base: &Base,
        target_repository: &str,
        tag: &str,
        packed: &Packed,
        patch: &ConfigPatch,
    ) -> Result<Appended, Error> {
        let registry = &self.registry;
        let unusable = |reason: String| Error::Manifest { digest: base.manifest.digest, reason };
        let Content::Image { config, layers } = base.manifest.parse()? else {
            return Err(unusable("it is an index, not an image".to_owned()));
        };
        let base_config = self.config(&base.repository, &config).await?;
        let new_config =
            patch.apply(&base_config, layers.len(), &packed.diff_id).map_err(unusable)?;
        let new_config = Bytes::from(new_config);

        let mut new_layer = Descriptor::new(OCI_LAYER_GZIP, packed.digest, packed.size);
        if let layer::Content::Memory(content) = &packed.content {
            new_layer = new_layer.embedding(content);
        }
        let config = Descriptor::new(OCI_CONFIG, Digest::of(&new_config), new_config.len() as u64)
            .embedding(&new_config);
        let manifest = manifest(&base.manifest, &config, &new_layer).map_err(unusable)?;
        let appended = Appended {
            digest: manifest.digest,
            size_bytes: manifest.size_bytes()?,
            layer: new_layer,
        };

        let place = (target_repository.to_owned(), base.manifest.digest);
        let seen_at = self.seen().held.get(&place).copied();
        if seen_at.is_some_and(|seen_at| seen_at.elapsed() < KNOWN_FOR) {
            futures::try_join!(
                registry.put_new_layer(target_repository, packed),
                registry.put_new_blob(target_repository, new_config.clone()),
            )?;
            // A registry takes no manifest whose layers it lacks.
            match registry.put_manifest(target_repository, tag, &manifest).await {
                Ok(()) => return Ok(appended),
                Err(error) if error.is_transient() || error.is_unauthorized() => return Err(error),
                Err(_) => self.seen().held.remove(&place),
            };
        }
        let there = registry.resolve(target_repository, &manifest.digest.to_string()).await?;
        if there.is_none() {
            let mounts = async {
                let held = layers.into_iter().filter(|layer| layer.urls.is_empty());
                let mounts: Vec<_> = held
                    .map(|blob| bring_blob(registry, &base.repository, target_repository, blob))
                    .collect();
                futures::stream::iter(mounts).buffer_unordered(STREAMS).try_collect::<()>().await
            };
            futures::try_join!(
                mounts,
                registry.put_layer(target_repository, packed),
                registry.put_blob(target_repository, new_config),
            )?;
        }
        registry.put_manifest(target_repository, tag, &manifest).await?;
        let mut seen = self.seen();
        if seen.held.len() >= MAX_HELD {
            seen.held.clear();
        }
        seen.held.insert(place, Instant::now());
        Ok(appended)
    }

    /// A config never changes: it is read once.
    async fn config(&self, repository: &str, config: &Descriptor) -> Result<Bytes, Error> {
        if let Some(known) = self.seen().configs.get(&config.digest) {
            return Ok(known.clone());
        }
        let bytes = self.registry.blob_bytes(repository, config, MAX_CONFIG).await?;
        let mut seen = self.seen();
        if seen.configs.len() >= MAX_CONFIGS {
            seen.configs.clear();
        }
        seen.configs.insert(config.digest, bytes.clone());
        Ok(bytes)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The base's manifest with another config and one more layer. The base's layers are taken over as they stand there,
/// with annotations and all. It is of the OCI's family, whatever the base is of: Docker's has no place for content.
fn manifest(base: &Manifest, config: &Descriptor, layer: &Descriptor) -> Result<Manifest, String> {
    let parsed: Value = serde_json::from_slice(&base.raw).map_err(|e| e.to_string())?;
    let mut layers = match parsed.get("layers") {
        Some(Value::Array(layers)) => layers.clone(),
        _ => return Err("it has no layers".to_owned()),
    };
    for layer in &mut layers {
        let oci = match layer.get("mediaType").and_then(Value::as_str) {
            Some(DOCKER_LAYER_GZIP) => OCI_LAYER_GZIP,
            Some(DOCKER_FOREIGN_LAYER) => OCI_FOREIGN_LAYER,
            _ => continue,
        };
        layer["mediaType"] = json!(oci);
    }
    layers.push(json!(layer));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": layers,
        "annotations": { BASE_DIGEST: base.digest },
    });
    let raw = serde_json::to_vec(&sorted(manifest)).map_err(|e| e.to_string())?;
    Ok(Manifest::new(raw.into(), OCI_MANIFEST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_types::DOCKER_MANIFEST;

    fn base(media_type: &str, layer_type: &str) -> Manifest {
        let raw = json!({
            "schemaVersion": 2,
            "config": Descriptor::new("application/x", Digest::of(b"c"), 1),
            "layers": [{
                "mediaType": layer_type, "digest": Digest::of(b"l"), "size": 1,
                "annotations": {"kept": "yes"},
            }],
        });
        Manifest::new(raw.to_string().into(), media_type)
    }

    #[test]
    fn the_new_manifest_is_of_the_ocis_family_and_keeps_the_bases_layers() {
        for (media_type, layer_type, layer_there) in [
            (OCI_MANIFEST, OCI_LAYER_GZIP, OCI_LAYER_GZIP),
            (OCI_MANIFEST, "application/y", "application/y"),
            (DOCKER_MANIFEST, DOCKER_LAYER_GZIP, OCI_LAYER_GZIP),
            (DOCKER_MANIFEST, DOCKER_FOREIGN_LAYER, OCI_FOREIGN_LAYER),
        ] {
            let base = base(media_type, layer_type);
            let config = Descriptor::new(OCI_CONFIG, Digest::of(b"c2"), 2).embedding(b"c2");
            let layer = Descriptor::new(OCI_LAYER_GZIP, Digest::of(b"l2"), 2).embedding(b"l2");
            let made = manifest(&base, &config, &layer).unwrap();
            assert_eq!(made, manifest(&base, &config, &layer).unwrap());
            assert_eq!(made.media_type, OCI_MANIFEST);
            assert_eq!(made.size_bytes().unwrap(), 5);
            let json: Value = serde_json::from_slice(&made.raw).unwrap();
            assert_eq!(json["mediaType"], OCI_MANIFEST);
            assert_eq!(json["layers"][0]["mediaType"], layer_there);
            assert_eq!(json["layers"][0]["annotations"]["kept"], "yes");
            assert_eq!(json["annotations"][BASE_DIGEST], base.digest.to_string());
            // Read back, the new ones still have their content.
            let Content::Image { config, layers } = made.parse().unwrap() else { panic!() };
            assert_eq!(config.embedded().as_deref(), Some(b"c2".as_slice()));
            assert_eq!(layers[1], layer);
        }
    }
}
