//! The most memory that a mirror ever has while it copies a blob of 2 GB.

use anyhow::{Context as _, Result, ensure};
use mecapy_proto::v1::MirrorRequested;
use mecapy_registry::{Descriptor, Digest, Hasher, Manifest, media_types};
use mecapy_testkit::RegistryServer;
use tokio::process::Child;

use crate::mirror_world::{World, noise};
use crate::report::Report;

const BLOB_BYTES: u64 = 2_000_000_000;
const PIECE: usize = 1_000_000;

pub async fn measure() -> Result<Report> {
    let mut world = World::empty().await?;
    let (function, repository) = world.function().await?;
    let piece = noise(PIECE);
    let layer = put(&world.system.primary, &repository, &piece).await?;
    let config = world.primary.put_blob(&repository, "{}".into()).await?;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_types::OCI_MANIFEST,
        "config": Descriptor::new(media_types::OCI_CONFIG, config.digest, config.size),
        "layers": [Descriptor::new(media_types::OCI_LAYER_GZIP, layer, BLOB_BYTES)],
    });
    let manifest = Manifest::new(manifest.to_string().into(), media_types::OCI_MANIFEST);
    world.primary.put_manifest(&repository, "v1", &manifest).await?;
    world.record(function, &repository, "v1", manifest.digest, "", BLOB_BYTES).await?;

    let mirror = world.start_mirror().await?;
    let (took, totals) = world.mirror(MirrorRequested::default()).await?;
    ensure!(totals.bytes_sent as u64 > BLOB_BYTES, "{totals:?}");
    let mut report = Report::new("memory", 1);
    report.measure("ours_max_rss_mib", peak_kib(&mirror)? as f64 / 1024.0);
    report.measure("ours_copy_mb_per_s", BLOB_BYTES as f64 / 1e6 / took.as_secs_f64());
    Ok(report)
}

/// The kernel's own high-water mark.
fn peak_kib(process: &Child) -> Result<u64> {
    let pid = process.id().context("it has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// Puts the piece so often that it is the blob, without ever having it whole.
async fn put(server: &RegistryServer, repository: &str, piece: &[u8]) -> Result<Digest> {
    let times = BLOB_BYTES / PIECE as u64;
    let mut hasher = Hasher::new();
    for _ in 0..times {
        hasher.update(piece);
    }
    let digest = hasher.finish();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let login = |request: reqwest::RequestBuilder| {
        request.basic_auth(&server.username, Some(&server.password))
    };
    let url = format!("http://{}/v2/{repository}/blobs/uploads/", server.host);
    let opened = login(client.post(url)).send().await?.error_for_status()?;
    let location = opened.headers().get("location").context("no session")?.to_str()?.to_owned();
    let piece = bytes::Bytes::copy_from_slice(piece);
    let pieces =
        futures::stream::iter((0..times).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
    login(client.put(format!("{location}&digest={digest}")))
        .header("content-length", BLOB_BYTES)
        .header("content-type", "application/octet-stream")
        .body(reqwest::Body::wrap_stream(pieces))
        .send()
        .await?
        .error_for_status()?;
    Ok(digest)
}
