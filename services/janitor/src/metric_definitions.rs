//! The metrics of the janitor.

use mecapy_service::metrics::{
    Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge,
};

use crate::plan::{Policies, Rule};

const RUNS: [&str; 4] = ["applied", "dry_run", "stopped", "failed"];

/// Says what each tells; what is counted begins at 0: the first of something is a rise too.
pub(crate) fn register(policies: &Policies) {
    describe_counter!(
        "registry_cleanup_images_deleted_total",
        Unit::Count,
        "Deleted images by policy and rule, as in functions/unused"
    );
    describe_counter!(
        "registry_cleanup_images_skipped_total",
        Unit::Count,
        "Images planned and not deleted: needed again, or no longer what they were"
    );
    describe_gauge!(
        "registry_cleanup_space_freed_bytes",
        Unit::Bytes,
        "What the newest run that deleted has freed; on Distribution after its garbage collection"
    );
    describe_gauge!(
        "registry_storage_used_bytes",
        Unit::Bytes,
        "Of all manifests and blobs of the primary registry, each counted once"
    );
    describe_gauge!(
        "registry_storage_limit_bytes",
        Unit::Bytes,
        "What the primary registry may hold: janitor.storage_limit_bytes"
    );
    describe_gauge!(
        "registry_storage_days_until_limit",
        Unit::Count,
        "Days until the limit by the trend of the daily samples; infinite while it does not grow"
    );
    describe_counter!(
        "registry_cleanup_runs_total",
        Unit::Count,
        "Cleanups by how they ended: applied, dry_run, stopped, failed"
    );
    for how in RUNS {
        runs(how).increment(0);
    }
    for policy in policies.0.keys() {
        for rule in Rule::DELETING {
            images_deleted(format!("{policy}/{}", rule.as_str())).increment(0);
        }
    }
    images_skipped().increment(0);
}

pub(crate) fn images_deleted(policy: String) -> Counter {
    counter!("registry_cleanup_images_deleted_total", "policy" => policy)
}

pub(crate) fn images_skipped() -> Counter {
    counter!("registry_cleanup_images_skipped_total")
}

pub(crate) fn space_freed_bytes() -> Gauge {
    gauge!("registry_cleanup_space_freed_bytes")
}

pub(crate) fn storage_used_bytes() -> Gauge {
    gauge!("registry_storage_used_bytes")
}

pub(crate) fn storage_limit_bytes() -> Gauge {
    gauge!("registry_storage_limit_bytes")
}

pub(crate) fn days_until_limit() -> Gauge {
    gauge!("registry_storage_days_until_limit")
}

pub(crate) fn runs(how: &'static str) -> Counter {
    counter!("registry_cleanup_runs_total", "how" => how)
}
