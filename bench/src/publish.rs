//! Registry to registry, as the publisher copies: an image of 300 MB in five new layers, beside skopeo; and an edit
//! of the code, whose other layers are there. The registries have no disk, since what one takes for the files that they
//! sync is more than all else; the edit is measured with one, too.

use std::time::{Duration, Instant};

use anyhow::Result;
use mecapy_registry::{Base, Copier, Digest, ProgressSink, Registry, Source};
use mecapy_testkit::{Infra, Server, unique};

use crate::mirror_world::{Skopeo, append, client, near, noise};
use crate::report::{Report, percentile};

const BOTH: [Server; 2] = [Server::Primary, Server::Fallback];
const RUNS: usize = 5;
const EDITS: usize = 30;
const LAYERS: usize = 5;
const LAYER_BYTES: usize = 60_000_000;

pub async fn measure() -> Result<Report> {
    mecapy_service::install_tls();
    let (mut ours, mut skopeo_times) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let infra = Infra::start_open(&BOTH).await;
        let (staging, published) = (near(infra.primary()).await?, near(infra.fallback()).await?);
        let (from, to) = (client(&staging)?, Copier::new(client(&published)?));
        let skopeo = Skopeo::new(&[&staging, &published]).await?;
        // New layers for each of the two: neither finds what the other brought.
        let (repository, digest) = image(&from).await?;
        ours.push(copy(&from, &to, &repository, digest).await?);
        if let Some(skopeo) = &skopeo {
            let (repository, _) = image(&from).await?;
            let began = Instant::now();
            let name = format!("{repository}:v1");
            skopeo
                .copy(&format!("{}/{name}", staging.host), &format!("{}/{name}", published.host))
                .await?;
            skopeo_times.push(began.elapsed());
        }
    }

    let mut report = Report::new("publish", RUNS);
    report.durations("ours", &ours);
    report.durations("ours_code_layer", &edits(&Infra::start_open(&BOTH).await).await?);
    let on_disk = Infra::start_open_on_disk(&BOTH).await;
    report.durations("ours_code_layer_on_disk", &edits(&on_disk).await?);
    if skopeo_times.is_empty() {
        report.not_measured("ratio_skopeo", Skopeo::MISSING);
    } else {
        report.durations("skopeo", &skopeo_times);
        let skopeo = percentile(&skopeo_times, 50).as_secs_f64();
        report.measure("ratio_skopeo", percentile(&ours, 50).as_secs_f64() / skopeo);
    }
    Ok(report)
}

/// Copies of an image that is there but for its code and config.
async fn edits(infra: &Infra) -> Result<Vec<Duration>> {
    // One for all, as the publisher has it.
    let from = client(&near(infra.primary()).await?)?;
    let to = Copier::new(client(&near(infra.fallback()).await?)?);
    let (repository, _) = image(&from).await?;
    let below =
        Base { repository: repository.clone(), manifest: from.manifest(&repository, "v1").await? };
    copy(&from, &to, &repository, below.manifest.digest).await?;
    let mut edits = Vec::new();
    for edit in 0..EDITS {
        let (tag, code) = (format!("edit-{edit}"), format!("print({edit})\n").into_bytes());
        let appended =
            append(&from, &below, &repository, &tag, "app/user_function.py", code).await?;
        edits.push(copy(&from, &to, &repository, appended.digest).await?);
    }
    Ok(edits)
}

/// Five layers that nobody has seen, on an image of nothing.
async fn image(registry: &Registry) -> Result<(String, Digest)> {
    use mecapy_registry::{Descriptor, Manifest, media_types};
    let repository = unique("publish");
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": {}, "rootfs": { "type": "layers", "diff_ids": [] },
    });
    let config = registry.put_blob(&repository, config.to_string().into()).await?;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_types::OCI_MANIFEST,
        "config": Descriptor::new(media_types::OCI_CONFIG, config.digest, config.size),
        "layers": [],
    });
    let manifest = Manifest::new(manifest.to_string().into(), media_types::OCI_MANIFEST);
    registry.put_manifest(&repository, "v1", &manifest).await?;
    let mut below = Base { repository: repository.clone(), manifest };
    for layer in 0..LAYERS {
        let path = format!("opt/layer-{layer}");
        append(registry, &below, &repository, "v1", &path, noise(LAYER_BYTES)).await?;
        below.manifest = registry.manifest(&repository, "v1").await?;
    }
    Ok((repository, below.manifest.digest))
}

/// The image, its own tag, then `latest`.
async fn copy(from: &Registry, to: &Copier, repository: &str, digest: Digest) -> Result<Duration> {
    let source = Source { registry: from.clone(), repository: repository.to_owned(), digest };
    let tag = format!("v-{}", &digest.hex()[..8]);
    let began = Instant::now();
    let brought = to.bring_image(&source, repository, &ProgressSink::none()).await?;
    for tag in [tag.as_str(), "latest"] {
        to.registry().put_manifest(repository, tag, &brought.manifest).await?;
    }
    Ok(began.elapsed())
}
