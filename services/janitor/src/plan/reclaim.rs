//! The bytes that become free: of manifests and blobs that nothing kept holds, counted once.

use super::{ImageId, Snapshot};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaim {
    pub freed_bytes: u64,
    /// Of all manifests and blobs that are there now.
    pub total_bytes: u64,
}

/// What deleting these images frees, in the whole registry.
pub fn reclaim(snapshot: &Snapshot, is_deleted: impl Fn(ImageId) -> bool) -> Reclaim {
    const HELD: u8 = 1;
    const KEPT: u8 = 2;
    let mut marks = vec![0_u8; snapshot.digest_count()];
    for id in snapshot.ids() {
        let mark = if is_deleted(id) { HELD } else { HELD | KEPT };
        let image = snapshot.image_at(id);
        marks[image.digest.index()] |= mark;
        // The children of an index are images of their own.
        if !image.is_index {
            for blob in snapshot.held(id) {
                marks[blob.index()] |= mark;
            }
        }
    }
    let mut sum = Reclaim::default();
    for (place, mark) in marks.iter().enumerate().filter(|(_, mark)| **mark != 0) {
        let size =
            snapshot.size(super::snapshot::DigestId(u32::try_from(place).unwrap_or_default()));
        sum.total_bytes = sum.total_bytes.saturating_add(size);
        if mark & KEPT == 0 {
            sum.freed_bytes = sum.freed_bytes.saturating_add(size);
        }
    }
    sum
}
