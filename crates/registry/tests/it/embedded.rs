//! Content that a manifest holds itself.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use mecapy_registry::{
    Base, ConfigPatch, Content, Copier, Descriptor, Digest, LayerFile, Manifest, ProgressSink,
    Registry, Source, TarLayer, Verifier, append_layer,
};
use mecapy_testkit::unique;
use serde_json::Value;

use crate::images::{Family, noise, push};
use crate::proxy::{Fate, Proxy, Step};
use crate::servers::{delete_blob, fallback, primary, primary_server};

/// An image as builders make it, in a repository of its own.
async fn function(registry: &Registry) -> (String, Manifest) {
    let repository = unique("embedded");
    let files = [("a", noise(&repository, 20_000))];
    let below = push(registry, &repository, Family::Docker, &files).await;
    let base = Base { repository: repository.clone(), manifest: below };
    let path = "app/user_function.py".to_owned();
    let code = LayerFile { path, mode: 0o444, bytes: Bytes::from("print(1)\n") };
    let layer = TarLayer::from_files([code]).unwrap();
    let patch = ConfigPatch::default();
    append_layer(registry, &base, &repository, "v1", layer, &patch).await.unwrap();
    let manifest = registry.manifest(&repository, "v1").await.unwrap();
    (repository, manifest)
}

fn blobs(manifest: &Manifest) -> Vec<Descriptor> {
    let Content::Image { config, mut layers } = manifest.parse().unwrap() else { panic!() };
    layers.push(config);
    layers
}

async fn passing() -> Proxy {
    Proxy::start(primary_server().await, |_| Fate::Pass).await
}

async fn bring(from: &Proxy, repository: &str, digest: Digest) -> Manifest {
    let registry = from.registry();
    let from = Source { registry, repository: repository.to_owned(), digest };
    let to = Copier::new(fallback().await);
    to.bring_image(&from, repository, &ProgressSink::none()).await.unwrap().manifest
}

/// Whether the registry itself has each blob, byte for byte.
async fn is_stored(registry: &Registry, repository: &str, manifest: &Manifest) {
    for blob in blobs(manifest) {
        let stored = Descriptor { data: None, ..blob };
        registry.blob_bytes(repository, &stored, 100_000).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_manifest_holds_is_not_fetched_and_is_stored_all_the_same() {
    let (repository, manifest) = function(&primary().await).await;
    let from = passing().await;
    let brought = bring(&from, &repository, manifest.digest).await;
    assert_eq!(brought, manifest);
    // The base's layer alone.
    assert_eq!(from.passed(Step::ReadBlob).len(), 1);
    is_stored(&fallback().await, &repository, &manifest).await;
}

#[tokio::test]
async fn what_a_manifest_only_says_it_holds_is_fetched() {
    let registry = primary().await;
    let (repository, manifest) = function(&registry).await;
    let mut lie: Value = serde_json::from_slice(&manifest.raw).unwrap();
    lie["config"]["data"] = BASE64_STANDARD.encode("{}").into();
    lie["layers"][1]["data"] = "*".into();
    let lie = Manifest::new(lie.to_string().into(), manifest.media_type);
    registry.put_manifest(&repository, "lie", &lie).await.unwrap();

    let from = passing().await;
    assert_eq!(bring(&from, &repository, lie.digest).await, lie);
    assert_eq!(from.passed(Step::ReadBlob).len(), 3);
    is_stored(&fallback().await, &repository, &lie).await;
}

#[tokio::test]
async fn whether_a_registry_still_has_a_blob_is_not_told_by_the_manifest() {
    let registry = primary().await;
    let (repository, manifest) = function(&registry).await;
    let verify =
        async || Verifier::new(registry.clone()).verify(&repository, &manifest.digest).await;
    assert_eq!(verify().await.unwrap().bytes_read, manifest.size_bytes().unwrap());
    let code = blobs(&manifest)[1].digest;
    delete_blob(&repository, &code).await;
    assert!(verify().await.unwrap_err().is_not_found());
}
