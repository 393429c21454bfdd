//! Copying an image between repositories, with its digest kept.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _};

use crate::copy_plan::Plan;
use crate::progress::Meter;
use crate::registry::Registry;
use crate::uploads::Start;
use crate::{Descriptor, Digest, Error, Manifest, ProgressSink, retry};

/// Blobs in flight at once for one image.
pub(crate) const STREAMS: usize = 10;

/// What to copy. By digest only: a tag could change between two stages.
#[derive(Clone, Debug)]
pub struct Source {
    pub registry: Registry,
    pub repository: String,
    pub digest: Digest,
}

/// Where to. The tags are moved in this order, after the image is whole.
#[derive(Clone, Debug)]
pub struct Destination {
    pub registry: Registry,
    pub repository: String,
    pub tags: Vec<String>,
}

/// What a copy did with the blobs. All are zero when the image's manifest was already there: then
/// its blobs were not even looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyReport {
    pub bytes_sent: u64,
    pub bytes_mounted: u64,
    /// Of blobs that the destination already had.
    pub bytes_skipped: u64,
    pub blobs: u64,
    /// Nothing had to be done, not even for a tag.
    pub is_unchanged: bool,
}

/// Copies the image or index and moves the tags to it. Blobs are mounted within one registry,
/// skipped where they are, and streamed otherwise.
///
/// It can be run again after any failure: what arrived is not sent again.
pub async fn copy_image(
    from: &Source,
    to: &Destination,
    progress: &ProgressSink,
) -> Result<CopyReport, Error> {
    let reference = from.digest.to_string();
    let there = to.registry.resolve(&to.repository, &reference).await?;
    // An image's manifest was accepted only with its blobs. The child of an index may have been
    // deleted since, which registries allow, so an index is looked through.
    let is_whole = there.is_some_and(|there| !is_index(&there));
    let (mut report, verified) =
        if is_whole { Default::default() } else { copy_content(from, to, progress).await? };
    let moved_tags = move_tags(from, to, verified).await?;
    report.is_unchanged = is_whole && moved_tags == 0;
    Ok(report)
}

fn is_index(there: &Descriptor) -> bool {
    use crate::media_types::{DOCKER_LIST, OCI_INDEX};
    matches!(there.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
}

/// Everything but the tags. Gives the manifest as the destination serves it, if it was new there.
async fn copy_content(
    from: &Source,
    to: &Destination,
    progress: &ProgressSink,
) -> Result<(CopyReport, Option<Manifest>), Error> {
    let plan = Plan::read(&from.registry, &from.repository, &from.digest).await?;
    let missing = missing(to, &plan).await?;
    let report = copy_blobs(from, to, plan.blobs(&missing), progress).await?;
    let mut verified = None;
    for (manifest, _) in plan.manifests.iter().filter(|(m, _)| missing.contains(&m.digest)) {
        verified = Some(put_manifest(to, manifest).await?);
    }
    // The last of the plan is the root; another can be the last one put when the root was there.
    Ok((report, verified.filter(|manifest| manifest.digest == from.digest)))
}

/// The manifests of the plan that the destination lacks.
async fn missing(to: &Destination, plan: &Plan) -> Result<BTreeSet<Digest>, Error> {
    let looks = plan.manifests.iter().map(|(manifest, _)| {
        let digest = manifest.digest;
        async move {
            let there = to.registry.resolve(&to.repository, &digest.to_string()).await?;
            Ok::<_, Error>(there.is_none().then_some(digest))
        }
    });
    let looks: Vec<_> = looks.collect();
    futures::stream::iter(looks)
        .buffer_unordered(STREAMS)
        .try_filter_map(|missing| async move { Ok(missing) })
        .try_collect()
        .await
}

enum Moved {
    Sent,
    Mounted,
    Skipped,
}

async fn copy_blobs(
    from: &Source,
    to: &Destination,
    blobs: Vec<Descriptor>,
    progress: &ProgressSink,
) -> Result<CopyReport, Error> {
    let mut report = CopyReport { blobs: blobs.len() as u64, ..CopyReport::default() };
    let bytes_total = blobs.iter().map(|blob| blob.size).sum();
    let meter = Meter::new(progress, bytes_total, report.blobs);
    let copies: Vec<_> =
        blobs.into_iter().map(|blob| copy_blob(from, to, blob, meter.clone())).collect();
    let mut copies = futures::stream::iter(copies).buffer_unordered(STREAMS);
    while let Some((moved, bytes)) = copies.try_next().await? {
        match moved {
            Moved::Sent => report.bytes_sent += bytes,
            Moved::Mounted => report.bytes_mounted += bytes,
            Moved::Skipped => report.bytes_skipped += bytes,
        }
    }
    Ok(report)
}

async fn copy_blob(
    from: &Source,
    to: &Destination,
    blob: Descriptor,
    meter: Meter,
) -> Result<(Moved, u64), Error> {
    let is_same_registry = from.registry.is_same_registry(&to.registry);
    let moved = if is_same_registry && from.repository == to.repository {
        Moved::Skipped
    } else {
        let mount_from = is_same_registry.then_some(from.repository.as_str());
        retry::transient(to.registry.host(), "blob_copy", || {
            copy_blob_once(from, to, &blob, mount_from, &meter)
        })
        .await?
    };
    if !matches!(moved, Moved::Sent) {
        meter.add_bytes(blob.size);
    }
    meter.blob_done();
    Ok((moved, blob.size))
}

/// Makes a blob of one repository appear in another of the same registry.
pub(crate) async fn bring_blob(
    registry: &Registry,
    from: &str,
    to: &str,
    blob: Descriptor,
) -> Result<(), Error> {
    let digest = blob.digest;
    let source = Source { registry: registry.clone(), repository: from.to_owned(), digest };
    let destination =
        Destination { registry: registry.clone(), repository: to.to_owned(), tags: Vec::new() };
    let meter = Meter::new(&ProgressSink::none(), blob.size, 1);
    copy_blob(&source, &destination, blob, meter).await.map(drop)
}

async fn copy_blob_once(
    from: &Source,
    to: &Destination,
    blob: &Descriptor,
    mount_from: Option<&str>,
    meter: &Meter,
) -> Result<Moved, Error> {
    // Within one registry a mount also answers whether the blob is there, at the price of one call.
    if mount_from.is_none() && to.registry.blob_exists_once(&to.repository, &blob.digest).await? {
        return Ok(Moved::Skipped);
    }
    let start = to.registry.start_upload(&to.repository, &blob.digest, mount_from).await?;
    let session = match start {
        Start::Mounted => return Ok(Moved::Mounted),
        Start::Session(session) => session,
    };
    if mount_from.is_some() && to.registry.blob_exists_once(&to.repository, &blob.digest).await? {
        to.registry.cancel_upload(&to.repository, session).await;
        return Ok(Moved::Skipped);
    }
    let content = match from.registry.open_blob(&from.repository, blob).await {
        Ok(content) => content,
        Err(error) => {
            to.registry.cancel_upload(&to.repository, session).await;
            return Err(error);
        }
    };
    let counted = Arc::new(AtomicU64::new(0));
    let content = content.inspect_ok({
        let (meter, counted) = (meter.clone(), counted.clone());
        move |piece| {
            counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
            meter.add_bytes(piece.len() as u64);
        }
    });
    let result = to.registry.upload(&to.repository, session, blob, content).await;
    if result.is_err() {
        meter.take_back(counted.load(Ordering::Relaxed));
    }
    result.map(|()| Moved::Sent)
}

/// Puts a manifest by digest, and reads it back as whoever pulls it will.
async fn put_manifest(to: &Destination, manifest: &Manifest) -> Result<Manifest, Error> {
    let reference = manifest.digest.to_string();
    to.registry.put_manifest(&to.repository, &reference, manifest).await?;
    to.registry.manifest(&to.repository, &reference).await
}

/// Moves the tags that lead elsewhere, and says how many. `verified` is what the destination
/// serves, if it was read already: that, not what was sent, is what a tag leads to.
async fn move_tags(
    from: &Source,
    to: &Destination,
    mut verified: Option<Manifest>,
) -> Result<usize, Error> {
    let mut moved = 0;
    for tag in &to.tags {
        let there = to.registry.resolve(&to.repository, tag).await?;
        if there.is_some_and(|there| there.digest == from.digest) {
            continue;
        }
        let manifest = match &verified {
            Some(manifest) => manifest,
            None => {
                let reference = from.digest.to_string();
                verified.insert(to.registry.manifest(&to.repository, &reference).await?)
            }
        };
        to.registry.put_manifest(&to.repository, tag, manifest).await?;
        moved += 1;
    }
    Ok(moved)
}
