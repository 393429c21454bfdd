//! The metrics of the sweep.

use mecapy_service::metrics::{Counter, Unit, counter, describe_counter};

const SWEPT: [&str; 14] = [
    "builds_resent",
    "builds_failed",
    "tasks_resent",
    "tasks_lost",
    "cleanups_failed",
    "mirror_images_resent",
    "inbox_rows",
    "usage_rows",
    "layer_index_rows",
    "kept_event_rows",
    "delivery_rows",
    "staging_images",
    "dependency_images",
    "objects",
];
const PARTS: [&str; 6] = ["builds", "tasks", "runs", "rows", "staging", "objects"];

/// Says what each tells; what is counted begins at 0.
pub(super) fn register() {
    describe_counter!(
        "mecapy_sweep_total",
        Unit::Count,
        "Things that the sweep dealt with, by kind: work that stood still (builds_resent, tasks_lost, …) and what had had its use (inbox_rows, staging_images, …)"
    );
    describe_counter!(
        "mecapy_sweep_failures_total",
        Unit::Count,
        "Parts of a sweep that failed: builds, tasks, runs, rows, staging, objects"
    );
    for what in SWEPT {
        swept(what).increment(0);
    }
    for part in PARTS {
        failures(part).increment(0);
    }
}

pub(super) fn swept(what: &'static str) -> Counter {
    counter!("mecapy_sweep_total", "what" => what)
}

pub(super) fn failures(part: &'static str) -> Counter {
    counter!("mecapy_sweep_failures_total", "part" => part)
}
