//! The metrics of the janitor.

use mecapy_service::metrics::{Counter, Gauge, counter, gauge};

/// Deleted images by policy and rule (`functions/unused`).
pub(crate) fn images_deleted(policy: String) -> Counter {
    counter!("registry_cleanup_images_deleted_total", "policy" => policy)
}

/// Planned and not done: the image is needed again, or is no longer what it was.
pub(crate) fn images_skipped() -> Counter {
    counter!("registry_cleanup_images_skipped_total")
}

/// By the newest run that deleted. On Distribution they are free after its garbage collection.
pub(crate) fn space_freed_bytes() -> Gauge {
    gauge!("registry_cleanup_space_freed_bytes")
}

/// Of all manifests and blobs, each counted once.
pub(crate) fn storage_used_bytes() -> Gauge {
    gauge!("registry_storage_used_bytes")
}

pub(crate) fn storage_limit_bytes() -> Gauge {
    gauge!("registry_storage_limit_bytes")
}

/// By the trend of the daily samples; infinite while it does not grow.
pub(crate) fn days_until_limit() -> Gauge {
    gauge!("registry_storage_days_until_limit")
}

/// Runs that ended, by how: applied, dry_run, stopped, failed.
pub(crate) fn runs(how: &'static str) -> Counter {
    counter!("registry_cleanup_runs_total", "how" => how)
}
