//! Copying one image between repositories, with its digest kept.

use crate::copier::{Copier, Target};
use crate::registry::Registry;
use crate::{Descriptor, Digest, Error, ProgressSink};

/// Blobs and manifests of one image that are attended to at once.
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
/// It can be run again after any failure: what arrived is not sent again. Whoever copies many
/// images makes one [`Copier`] for all of them.
pub async fn copy_image(
    from: &Source,
    to: &Destination,
    progress: &ProgressSink,
) -> Result<CopyReport, Error> {
    let target =
        Target { repository: to.repository.clone(), tags: to.tags.clone(), mount_from: Vec::new() };
    Copier::new(to.registry.clone()).copy(from, &target, progress).await
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
    let target = Target { repository: to.to_owned(), tags: Vec::new(), mount_from: Vec::new() };
    Copier::new(registry.clone()).bring(&source, &target, blob).await
}
