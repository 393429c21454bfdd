//! Registry to registry, as the publisher copies: an image of 300 MB in five new layers, beside skopeo; and an edit
//! of the code, whose other layers are there.

use std::time::{Duration, Instant};

use anyhow::Result;
use mecapy_registry::{Base, Copier, Digest, ProgressSink, Registry, Source};
use mecapy_testkit::{Infra, Server, unique};

use crate::mirror_world::{Skopeo, append, client, near, noise};
use crate::report::{Report, percentile};

const RUNS: usize = 5;
const EDITS: usize = 30;
const LAYERS: usize = 5;
const LAYER_BYTES: usize = 60_000_000;

pub async fn measure() -> Result<Report> {
    mecapy_service::install_tls();
    let infra = Infra::start_open(&[Server::Primary, Server::Fallback]).await;
    let (staging, published) = (near(infra.primary()).await?, near(infra.fallback()).await?);
    // One for all, as the publisher has it.
    let (from, to) = (client(&staging)?, Copier::new(client(&published)?));
    let skopeo = Skopeo::new(&[&staging, &published]).await?;

    let (mut ours, mut skopeo_times) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
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

    let mut report = Report::new("publish", RUNS);
    report.durations("ours", &ours);
    report.durations("ours_code_layer", &edits);
    if skopeo_times.is_empty() {
        report.not_measured("ratio_skopeo", Skopeo::MISSING);
    } else {
        report.durations("skopeo", &skopeo_times);
        let skopeo = percentile(&skopeo_times, 50).as_secs_f64();
        report.measure("ratio_skopeo", percentile(&ours, 50).as_secs_f64() / skopeo);
    }
    Ok(report)
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
