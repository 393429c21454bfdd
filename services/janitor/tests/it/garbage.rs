//! What the plan says becomes free is what the disk gets back: `scripts/registry-gc` on a registry of its own.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use chrono::Utc;
use mecapy_janitor::plan::{Seen, Snapshot, reclaim};
use mecapy_registry::{
    Deleted, Deletion, Descriptor, Digest, DistributionInventory, Inventory, Manifest, Options,
    Registry, media_types,
};
use mecapy_service::Secret;
use mecapy_testkit::{Infra, Server, unique};

/// An image of these layers and a config of its own.
async fn image(registry: &Registry, repository: &str, tags: &[&str], layers: &[&str]) -> Manifest {
    let blob = async |content: Bytes, media_type: &str| {
        let blob = registry.put_blob(repository, content).await.unwrap();
        Descriptor::new(media_type, blob.digest, blob.size)
    };
    let config = format!("{{\"v\":\"{}\"}}", unique("config"));
    let config = blob(config.into(), media_types::OCI_CONFIG).await;
    let mut descriptors = Vec::new();
    for layer in layers {
        // Sizes that are all different: no two sums of them are equal by chance.
        let content = layer.repeat(1000 + layer.len() * 37);
        descriptors.push(blob(content.into(), media_types::OCI_LAYER_GZIP).await);
    }
    let raw = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_types::OCI_MANIFEST,
        "config": config, "layers": descriptors,
    });
    let manifest = Manifest::new(raw.to_string().into(), media_types::OCI_MANIFEST);
    registry.put_manifest(repository, &manifest.digest.to_string(), &manifest).await.unwrap();
    for tag in tags {
        registry.put_manifest(repository, tag, &manifest).await.unwrap();
    }
    manifest
}

async fn snapshot(inventory: &DistributionInventory) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for repository in inventory.repositories().await.unwrap() {
        let manifests = inventory.manifests(&repository, &|_| None).await.unwrap();
        let seen: Vec<Seen> = manifests
            .into_iter()
            .map(|manifest| Seen { manifest, first_seen: Utc::now() })
            .collect();
        snapshot.add(&repository, &seen);
    }
    snapshot
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn container_at(host: &str) -> String {
    let port = host.rsplit_once(':').unwrap().1;
    docker(&["ps", "--filter", &format!("publish={port}"), "--format", "{{.Names}}"])
}

fn stored_bytes(container: &str) -> u64 {
    let blobs = "/var/lib/docker-registry/docker/registry/v2/blobs";
    let sizes = docker(&["exec", container, "find", blobs, "-name", "data", "-printf", "%s\n"]);
    sizes.lines().map(|size| size.parse::<u64>().unwrap()).sum()
}

fn collect_garbage(container: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/registry-gc");
    let output = Command::new(script).arg(container).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test]
async fn the_disk_gets_back_exactly_what_the_plan_says() {
    let infra = Infra::start(&[Server::Primary]).await;
    let server = infra.primary();
    let container = container_at(&server.host);
    let registry = Registry::new(&Options {
        host: server.host.clone(),
        username: Some(server.username),
        password: Some(Secret::new(server.password)),
        plain_http: true,
        ..Options::default()
    })
    .unwrap();
    let inventory = DistributionInventory::new(registry.clone());

    let old = image(&registry, "f/one", &["v1"], &["base", "numpy", "code of one"]).await;
    image(&registry, "f/one", &["v2", "latest"], &["base", "numpy", "newer code of one"]).await;
    let alone = image(&registry, "f/two", &["v1"], &["base", "scipy!", "code of two"]).await;
    // In another repository, and nowhere else tagged: it lives by its index.
    let child = image(&registry, "base", &[], &["base", "scipy!"]).await;
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": [child.descriptor()],
    });
    let index = Manifest::new(index.to_string().into(), media_types::OCI_INDEX);
    registry.put_manifest("base", "3.11", &index).await.unwrap();

    let before = snapshot(&inventory).await;
    let deleted = [("f/one", old.digest), ("f/two", alone.digest)];
    let planned =
        reclaim(&before, |id| deleted.contains(&(before.repository(id), before.digest(id))));
    assert_eq!(planned.total_bytes, stored_bytes(&container));

    for (repository, digest) in deleted {
        let deletion = Deletion::Manifest { digest, tags: vec!["v1".to_owned()] };
        assert_eq!(inventory.delete(repository, &deletion).await.unwrap(), Deleted::Done);
    }
    assert_eq!(stored_bytes(&container), planned.total_bytes, "a deletion alone frees nothing");

    let said = collect_garbage(&container);
    assert_eq!(stored_bytes(&container), planned.total_bytes - planned.freed_bytes);
    let freed = format!("freed {} of {} bytes", planned.freed_bytes, planned.total_bytes);
    assert!(said.contains(&freed), "{said}");

    // What lives can be pulled, and what is gone can come again.
    for (repository, digest) in [("base", index.digest), ("base", child.digest)] {
        registry.manifest(repository, &digest.to_string()).await.unwrap();
    }
    assert!(!has(&registry, "f/two", &Digest::of("code of two".repeat(1407).as_bytes())).await);
    let again = image(&registry, "f/two", &["v1"], &["base", "code of two"]).await;
    for blob in ["base".repeat(1148), "code of two".repeat(1407)] {
        let digest = Digest::of(blob.as_bytes());
        let layer = Descriptor::new(media_types::OCI_LAYER_GZIP, digest, blob.len() as u64);
        let read = registry.blob_bytes("f/two", &layer, 1 << 20).await.unwrap();
        assert_eq!(read.len(), blob.len());
    }
    assert!(inventory.raw("f/two", &again.digest).await.is_ok());
    assert!(collect_garbage(&container).contains("freed 0 of"), "nothing is left to collect");
}

#[tokio::test]
async fn uploads_that_were_broken_off_go_after_a_day() {
    let infra = Infra::start(&[Server::Primary]).await;
    let server = infra.primary();
    let container = container_at(&server.host);
    mecapy_service::install_tls();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let begin = async || {
        let url = format!("http://{}/v2/f/uploads/blobs/uploads/", server.host);
        let begun = client
            .post(url)
            .basic_auth(&server.username, Some(&server.password))
            .send()
            .await
            .unwrap();
        let url = begun.headers()["location"].to_str().unwrap().to_owned();
        let sent = client
            .patch(url)
            .basic_auth(&server.username, Some(&server.password))
            .header("content-type", "application/octet-stream")
            .body("half of a blob")
            .send()
            .await
            .unwrap();
        assert!(sent.status().is_success(), "{}", sent.status());
        begun.headers()["docker-upload-uuid"].to_str().unwrap().to_owned()
    };
    let (old, young) = (begin().await, begin().await);
    let uploads = "/var/lib/docker-registry/docker/registry/v2/repositories/f/uploads/_uploads";
    let old_files = format!("find {uploads}/{old} -exec touch -d '25 hours ago' {{}} +");
    docker(&["exec", &container, "sh", "-c", &old_files]);
    collect_garbage(&container);
    assert_eq!(docker(&["exec", &container, "ls", uploads]), young);
}

async fn has(registry: &Registry, repository: &str, blob: &Digest) -> bool {
    registry.blob_exists(repository, blob).await.unwrap()
}
