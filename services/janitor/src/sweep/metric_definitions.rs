//! The metrics of the sweep.

use mecapy_service::metrics::{Counter, counter};

/// Things that were dealt with, by kind: `builds_resent`, `builds_failed`, `tasks_resent`, `tasks_lost`, `inbox_rows`,
/// `usage_rows`, `layer_index_rows`, `kept_event_rows`, `staging_images`, `dependency_images`, `objects`.
pub(super) fn swept(what: &'static str) -> Counter {
    counter!("mecapy_sweep_total", "what" => what)
}

/// Parts of a sweep that failed: `builds`, `tasks`, `rows`, `staging`, `objects`.
pub(super) fn failures(part: &'static str) -> Counter {
    counter!("mecapy_sweep_failures_total", "part" => part)
}
