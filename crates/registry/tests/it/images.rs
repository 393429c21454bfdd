//! Small images to move.

use std::io::Write as _;

use bytes::Bytes;
use mecapy_registry::{Descriptor, Digest, Manifest, Registry, TarLayer, media_types};
use serde_json::json;

#[derive(Clone, Copy)]
pub enum Family {
    Oci,
    Docker,
}

impl Family {
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media_types::OCI_MANIFEST,
            Self::Docker => media_types::DOCKER_MANIFEST,
        }
    }

    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => media_types::OCI_CONFIG,
            Self::Docker => media_types::DOCKER_CONFIG,
        }
    }

    pub fn layer(self) -> &'static str {
        match self {
            Self::Oci => media_types::OCI_LAYER_GZIP,
            Self::Docker => media_types::DOCKER_LAYER_GZIP,
        }
    }
}

/// Bytes that look random, are the same for the same seed, and belong to nobody else's test when
/// the seed doesn't.
pub fn noise(seed: &str, size: usize) -> Bytes {
    let mut state = Digest::of(seed.as_bytes()).hex().into_bytes();
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state = Digest::of(&state).hex().into_bytes();
        bytes.extend_from_slice(&state);
    }
    bytes.truncate(size);
    bytes.into()
}

/// An image whose layers are tars of one file each, as Docker can pull it. The manifest is written
/// with odd spacing and a field that nobody knows: who keeps digests must keep those.
pub async fn push(
    registry: &Registry,
    repository: &str,
    family: Family,
    files: &[(&str, Bytes)],
) -> Manifest {
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for (path, content) in files {
        let tar = tar_of(path, content);
        diff_ids.push(Digest::of(&tar));
        let blob = registry.put_blob(repository, gzip(&tar)).await.unwrap();
        layers.push(Descriptor::new(family.layer(), blob.digest, blob.size));
    }
    let history: Vec<_> = files.iter().map(|(path, _)| json!({ "created_by": path })).collect();
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "config": {"Env": ["PATH=/usr/bin"], "Labels": {"base": "yes"}, "Cmd": ["/nothing"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    });
    let config = registry.put_blob(repository, config.to_string().into()).await.unwrap();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": family.manifest(),
        "config": Descriptor::new(family.config(), config.digest, config.size),
        "layers": layers,
        "x-unknown": [1, 2],
    });
    let raw = format!("\n{}\n", serde_json::to_string_pretty(&manifest).unwrap());
    let manifest = Manifest::new(raw.into(), family.manifest());
    registry.put_manifest(repository, &manifest.digest.to_string(), &manifest).await.unwrap();
    manifest
}

/// An index over manifests that are in the repository.
pub async fn push_index(registry: &Registry, repository: &str, children: &[&Manifest]) -> Manifest {
    push_list(registry, repository, media_types::OCI_INDEX, children).await
}

/// The same, of a family's own type.
pub async fn push_list(
    registry: &Registry,
    repository: &str,
    media_type: &str,
    children: &[&Manifest],
) -> Manifest {
    let children: Vec<_> = children.iter().map(|child| child.descriptor()).collect();
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": children});
    let index = Manifest::new(index.to_string().into(), media_type);
    registry.put_manifest(repository, &index.digest.to_string(), &index).await.unwrap();
    index
}

fn tar_of(path: &str, content: &Bytes) -> Bytes {
    let file =
        mecapy_registry::LayerFile { path: path.into(), mode: 0o644, bytes: content.clone() };
    TarLayer::from_files([file]).unwrap().tar().clone()
}

pub fn gzip(content: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap().into()
}

/// The manifest of an image that is in no registry.
pub fn manifest_of(config: &Bytes, layer: &Bytes) -> Manifest {
    let of = |media_type: &str, content: &Bytes| {
        Descriptor::new(media_type, Digest::of(content), content.len() as u64)
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_types::OCI_MANIFEST,
        "config": of(media_types::OCI_CONFIG, config),
        "layers": [of(media_types::OCI_LAYER_GZIP, layer)],
    });
    Manifest::new(manifest.to_string().into(), media_types::OCI_MANIFEST)
}

pub fn blob_path(repository: &str, content: &Bytes) -> String {
    format!("/v2/{repository}/blobs/{}", Digest::of(content))
}
