//! Manifests: the bytes as the registry sent them, and a read-only view of what they name.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use oci_spec::image as oci;
use serde::{Deserialize, Serialize};

use crate::{Digest, Error};

/// The media types of the two families of image formats.
pub mod media_types {
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_FOREIGN_LAYER: &str =
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_FOREIGN_LAYER: &str =
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const OCTET_STREAM: &str = "application/octet-stream";
}
use media_types::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

/// All four, always: without one of them Distribution 2.8 answers 404 for an OCI manifest, and
/// rewrites a schema 2 one into schema 1.
pub(crate) const ACCEPT_MANIFESTS: &str = concat!(
    "application/vnd.oci.image.manifest.v1+json, ",
    "application/vnd.oci.image.index.v1+json, ",
    "application/vnd.docker.distribution.manifest.v2+json, ",
    "application/vnd.docker.distribution.manifest.list.v2+json",
);

/// Larger content is not put into a manifest: each call that moves a tag sends the manifest again.
const MAX_EMBEDDED: usize = 16 * 1024;

/// What names content: its type, digest and size in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    /// The platform of an index's child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Where content that registries may not distribute lives instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// The content itself in Base 64, so that nobody has to fetch it (image specification, Embedded Content). Whoever
    /// wrote the manifest says so: it counts only where it has the digest and size above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Descriptor {
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        let (platform, urls, data) = (None, Vec::new(), None);
        Self { media_type: media_type.into(), digest, size, platform, urls, data }
    }

    /// The same with its content in it, if that is small.
    pub(crate) fn embedding(mut self, content: &[u8]) -> Self {
        self.data = (content.len() <= MAX_EMBEDDED).then(|| BASE64_STANDARD.encode(content));
        self
    }

    /// The content, if it is in here and right. Else it is fetched.
    pub(crate) fn embedded(&self) -> Option<Bytes> {
        let content = BASE64_STANDARD.decode(self.data.as_ref()?).ok()?;
        let is_right = content.len() as u64 == self.size && Digest::of(&content) == self.digest;
        is_right.then(|| content.into())
    }
}

/// A manifest or an index. `raw` is what was pulled or will be pushed, byte for byte, and `digest`
/// is always its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub raw: Bytes,
    pub media_type: String,
    pub digest: Digest,
}

/// What a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Image {
        config: Descriptor,
        /// In order of application, the base first.
        layers: Vec<Descriptor>,
    },
    Index {
        manifests: Vec<Descriptor>,
    },
}

impl Manifest {
    pub fn new(raw: Bytes, media_type: impl Into<String>) -> Self {
        let digest = Digest::of(&raw);
        Self { raw, media_type: media_type.into(), digest }
    }

    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.raw.len() as u64)
    }

    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    /// Reads it. Schema 1 and unknown types are errors.
    pub fn parse(&self) -> Result<Content, Error> {
        let unusable = |reason: String| Error::Manifest { digest: self.digest, reason };
        match self.media_type.as_str() {
            OCI_MANIFEST | DOCKER_MANIFEST => {
                let image = oci::ImageManifest::from_reader(self.raw.as_ref())
                    .map_err(|e| unusable(e.to_string()))?;
                Ok(Content::Image {
                    config: descriptor(image.config()).map_err(unusable)?,
                    layers: descriptors(image.layers()).map_err(unusable)?,
                })
            }
            OCI_INDEX | DOCKER_LIST => {
                let index = oci::ImageIndex::from_reader(self.raw.as_ref())
                    .map_err(|e| unusable(e.to_string()))?;
                Ok(Content::Index { manifests: descriptors(index.manifests()).map_err(unusable)? })
            }
            other => Err(unusable(format!("its media type `{other}` is not supported"))),
        }
    }

    /// The bytes of an image in a registry: its config and layers, compressed as they are stored.
    /// Zero for an index.
    pub fn size_bytes(&self) -> Result<u64, Error> {
        Ok(match self.parse()? {
            Content::Image { config, layers } => {
                layers.iter().fold(config.size, |sum, layer| sum.saturating_add(layer.size))
            }
            Content::Index { .. } => 0,
        })
    }
}

fn descriptors(from: &[oci::Descriptor]) -> Result<Vec<Descriptor>, String> {
    from.iter().map(descriptor).collect()
}

fn descriptor(from: &oci::Descriptor) -> Result<Descriptor, String> {
    Ok(Descriptor {
        media_type: from.media_type().to_string(),
        digest: from.digest().to_string().parse().map_err(|e: Error| e.to_string())?,
        size: from.size(),
        platform: from.platform().as_ref().map(|platform| Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone(),
        }),
        urls: from.urls().clone().unwrap_or_default(),
        data: from.data().clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(media_type: &str, json: serde_json::Value) -> Manifest {
        Manifest::new(Bytes::from(json.to_string()), media_type)
    }

    #[test]
    fn an_image_of_either_family_is_read() {
        let config = Digest::of(b"config");
        let layer = Digest::of(b"layer");
        for (media_type, layer_type) in [
            (media_types::OCI_MANIFEST, media_types::OCI_LAYER_GZIP),
            (media_types::DOCKER_MANIFEST, media_types::DOCKER_LAYER_GZIP),
        ] {
            let manifest = manifest(
                media_type,
                serde_json::json!({
                    "schemaVersion": 2,
                    "mediaType": media_type,
                    "config": {"mediaType": "application/x", "digest": config, "size": 6},
                    "layers": [{"mediaType": layer_type, "digest": layer, "size": 5, "new": {}}],
                    "unknown": true,
                }),
            );
            let Content::Image { config: c, layers } = manifest.parse().unwrap() else {
                panic!("not an image");
            };
            assert_eq!((c.digest, c.size), (config, 6));
            assert_eq!(layers, [Descriptor::new(layer_type, layer, 5)]);
            assert_eq!(manifest.size_bytes().unwrap(), 11);
        }
    }

    #[test]
    fn embedded_content_counts_where_it_is_what_the_digest_says() {
        let of = |content: &[u8]| Descriptor::new("x", Digest::of(content), content.len() as u64);
        let right = of(b"content").embedding(b"content");
        assert_eq!(right.embedded().as_deref(), Some(b"content".as_slice()));
        assert_eq!(of(b"").embedding(b"").embedded().as_deref(), Some(b"".as_slice()));
        assert_eq!(of(b"content").embedded(), None);
        let wrong = [
            of(b"content").embedding(b"CONTENT"),
            Descriptor { size: 6, ..right.clone() },
            Descriptor { data: Some("not base 64".to_owned()), ..right },
        ];
        for wrong in wrong {
            assert_eq!(wrong.embedded(), None);
        }
        let large = vec![0; MAX_EMBEDDED + 1];
        assert_eq!(of(&large).embedding(&large).data, None);
    }

    #[test]
    fn an_index_names_its_children_with_platforms() {
        let child = Digest::of(b"child");
        let manifest = manifest(
            media_types::OCI_INDEX,
            serde_json::json!({
                "schemaVersion": 2,
                "manifests": [{
                    "mediaType": media_types::OCI_MANIFEST, "digest": child, "size": 5,
                    "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
                }],
            }),
        );
        let Content::Index { manifests } = manifest.parse().unwrap() else {
            panic!("not an index");
        };
        let platform = manifests[0].platform.clone().unwrap();
        assert_eq!((platform.os.as_str(), platform.architecture.as_str()), ("linux", "arm64"));
        assert_eq!(platform.variant.as_deref(), Some("v8"));
    }

    #[test]
    fn what_cannot_be_used_is_an_error_that_says_why() {
        let schema1 = manifest(
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            serde_json::json!({"schemaVersion": 1}),
        );
        assert!(schema1.parse().unwrap_err().to_string().contains("v1+prettyjws"));
        let broken = manifest(media_types::OCI_MANIFEST, serde_json::json!({"schemaVersion": 2}));
        assert!(matches!(broken.parse(), Err(Error::Manifest { .. })));
    }
}
