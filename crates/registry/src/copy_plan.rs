//! What a copy has to move, known before it moves anything.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};

use crate::copy::STREAMS;
use crate::registry::Registry;
use crate::{Content, Descriptor, Digest, Error, Manifest};

/// Indexes in indexes are rare, and deeper ones are somebody's attack.
const MAX_DEPTH: usize = 8;
/// So are those of more than these: they are all held in memory.
const MAX_MANIFESTS: usize = 1_000;
const MAX_BYTES: usize = 32 * 1024 * 1024;
const MAX_BLOBS: usize = 10_000;

/// The manifests of an image, each after the ones it names.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) manifests: Vec<(Manifest, Content)>,
}

impl Plan {
    /// Reads the manifest `digest` and all below it.
    pub(crate) async fn read(
        registry: &Registry,
        repository: &str,
        digest: &Digest,
    ) -> Result<Self, Error> {
        let too_large = |reason: &str| Error::Manifest {
            digest: *digest,
            reason: format!("{reason}: no image is like this"),
        };
        let (mut found, mut bytes, mut blobs) = (BTreeMap::new(), 0, 0);
        let mut level = BTreeSet::from([*digest]);
        for _ in 0..MAX_DEPTH {
            if found.len() + level.len() > MAX_MANIFESTS {
                return Err(too_large("it leads to more than 1000 manifests"));
            }
            let reads = level.into_iter().map(|digest| read_one(registry, repository, digest));
            let mut reads = futures::stream::iter(reads).buffer_unordered(STREAMS);
            level = BTreeSet::new();
            while let Some((manifest, content)) = reads.try_next().await? {
                bytes += manifest.raw.len();
                match &content {
                    Content::Index { manifests } => {
                        level.extend(manifests.iter().map(|child| child.digest));
                    }
                    Content::Image { layers, .. } => blobs += layers.len() + 1,
                }
                if bytes > MAX_BYTES || blobs > MAX_BLOBS {
                    return Err(too_large(
                        "it names more than 10000 blobs, or its manifests have more than 32 MiB",
                    ));
                }
                found.insert(manifest.digest, (manifest, content));
            }
            level.retain(|digest| !found.contains_key(digest));
            if level.is_empty() {
                return Ok(Self { manifests: children_first(*digest, found) });
            }
        }
        Err(Error::Manifest {
            digest: *digest,
            reason: "its indexes are nested too deep".to_owned(),
        })
    }

    pub(crate) fn digests(&self) -> BTreeSet<Digest> {
        self.manifests.iter().map(|(manifest, _)| manifest.digest).collect()
    }

    pub(crate) fn all_blobs(&self) -> Vec<Digest> {
        self.blobs(&self.digests()).into_iter().map(|blob| blob.digest).collect()
    }

    /// The blobs that the images among `wanted` need, each once, the largest first: so the last
    /// stream to end is a short one.
    pub(crate) fn blobs(&self, wanted: &BTreeSet<Digest>) -> Vec<Descriptor> {
        let mut blobs = BTreeMap::new();
        for (manifest, content) in &self.manifests {
            if let Content::Image { config, layers } = content
                && wanted.contains(&manifest.digest)
            {
                // A layer with URLs lives elsewhere by licence; registries do not hold it.
                let held = layers.iter().filter(|layer| layer.urls.is_empty());
                for blob in held.chain([config]) {
                    blobs.entry(blob.digest).or_insert_with(|| blob.clone());
                }
            }
        }
        let mut blobs: Vec<_> = blobs.into_values().collect();
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        blobs
    }
}

async fn read_one(
    registry: &Registry,
    repository: &str,
    digest: Digest,
) -> Result<(Manifest, Content), Error> {
    let manifest = registry.manifest(repository, &digest.to_string()).await?;
    let content = manifest.parse()?;
    Ok((manifest, content))
}

fn children_first(
    root: Digest,
    mut found: BTreeMap<Digest, (Manifest, Content)>,
) -> Vec<(Manifest, Content)> {
    let mut ordered = Vec::with_capacity(found.len());
    // (digest, whether its children were pushed): the second time it is taken, they are done.
    let mut stack = vec![(root, false)];
    while let Some((digest, is_expanded)) = stack.pop() {
        if is_expanded {
            ordered.extend(found.remove(&digest));
        } else if let Some((_, content)) = found.get(&digest) {
            stack.push((digest, true));
            if let Content::Index { manifests } = content {
                stack.extend(manifests.iter().map(|child| (child.digest, false)));
            }
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media_types;

    fn image(name: &str, layers: &[(&str, u64)]) -> (Manifest, Content) {
        let manifest = Manifest::new(Bytes::from(name.to_owned()), media_types::OCI_MANIFEST);
        let blob = |name: &str, size| Descriptor::new("x", Digest::of(name.as_bytes()), size);
        let layers = layers.iter().map(|(name, size)| blob(name, *size)).collect();
        (manifest, Content::Image { config: blob(name, 1), layers })
    }

    fn index(name: &str, children: &[&Manifest]) -> (Manifest, Content) {
        let manifest = Manifest::new(Bytes::from(name.to_owned()), media_types::OCI_INDEX);
        let manifests = children.iter().map(|child| child.descriptor()).collect();
        (manifest, Content::Index { manifests })
    }

    fn plan(root: Digest, all: Vec<(Manifest, Content)>) -> Plan {
        let found = all.into_iter().map(|(m, c)| (m.digest, (m, c))).collect();
        Plan { manifests: children_first(root, found) }
    }

    #[test]
    fn every_manifest_comes_once_and_after_its_children() {
        let a = image("a", &[]);
        let b = image("b", &[]);
        let inner = index("inner", &[&a.0, &b.0]);
        // `a` is a child of both, and comes before the inner index in the outer one.
        let outer = index("outer", &[&a.0, &inner.0]);
        let root = outer.0.digest;
        let plan = plan(root, vec![outer, inner, b, a]);
        let order: Vec<_> = plan.manifests.iter().map(|(m, _)| m.digest).collect();
        assert_eq!(order.len(), 4);
        for (at, (_, content)) in plan.manifests.iter().enumerate() {
            if let Content::Index { manifests } = content {
                assert!(manifests.iter().all(|child| order[..at].contains(&child.digest)));
            }
        }
        assert_eq!(order.last(), Some(&root));
    }

    #[test]
    fn a_shared_blob_moves_once_and_large_ones_start_first() {
        let a = image("a", &[("base", 50), ("a-layer", 7)]);
        let b = image("b", &[("base", 50), ("b-layer", 90)]);
        let both = index("both", &[&a.0, &b.0]);
        let (root, wanted) = (both.0.digest, BTreeSet::from([a.0.digest, b.0.digest]));
        let only_a = BTreeSet::from([a.0.digest]);
        let plan = plan(root, vec![both, a, b]);
        let sizes: Vec<_> = plan.blobs(&wanted).iter().map(|blob| blob.size).collect();
        assert_eq!(sizes, [90, 50, 7, 1, 1]);
        let sizes: Vec<_> = plan.blobs(&only_a).iter().map(|blob| blob.size).collect();
        assert_eq!(sizes, [50, 7, 1]);
    }

    #[test]
    fn a_layer_that_lives_elsewhere_is_not_moved() {
        let (manifest, mut content) = image("a", &[("foreign", 50)]);
        if let Content::Image { layers, .. } = &mut content {
            layers[0].urls.push("https://elsewhere.example/layer".into());
        }
        let wanted = BTreeSet::from([manifest.digest]);
        let plan = plan(manifest.digest, vec![(manifest, content)]);
        assert_eq!(plan.blobs(&wanted).len(), 1);
    }
}
