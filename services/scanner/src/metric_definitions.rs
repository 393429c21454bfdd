//! The metrics of the scanner.

use std::time::Duration;

use mecapy_service::metrics::{Counter, Gauge, counter, gauge, histogram};

use crate::severity::Severity;

/// Scans by how they ended: passed, rejected, failed.
pub(crate) fn scans(outcome: &'static str) -> Counter {
    counter!("mecapy_scans_total", "outcome" => outcome)
}

/// From the question to the verdict, without the writing of reports.
pub(crate) fn scanned(took: Duration) {
    histogram!("mecapy_scan_duration_seconds").record(took.as_secs_f64());
}

pub(crate) fn findings(severity: Severity) -> Counter {
    counter!("mecapy_scan_findings_total", "severity" => severity.as_str())
}

/// Layers of scanned images by where their index came from: memory, store, read.
pub(crate) fn layers(from: &'static str) -> Counter {
    counter!("mecapy_scan_layers_total", "from" => from)
}

/// Of the newest advisory of the imported database. 0 for the starter set, which doesn't age.
pub(crate) fn database_age_seconds() -> Gauge {
    gauge!("mecapy_advisory_database_age_seconds")
}

pub(crate) fn database_advisories() -> Gauge {
    gauge!("mecapy_advisory_database_advisories")
}

/// How long it took to match all live images with a new database.
pub(crate) fn rematched(took: Duration) {
    histogram!("mecapy_rematch_duration_seconds").record(took.as_secs_f64());
}

/// Live images whose layers are not known, so that a new database can't be matched with them.
pub(crate) fn unindexed_images() -> Gauge {
    gauge!("mecapy_rematch_unindexed_images")
}

/// Images by what a new database changed: revoked, restored.
pub(crate) fn revoked(outcome: &'static str) -> Counter {
    counter!("mecapy_scans_revoked_total", "outcome" => outcome)
}

/// Findings of base images for code scanning: uploaded, failed.
pub(crate) fn uploads(outcome: &'static str) -> Counter {
    counter!("mecapy_code_scanning_uploads_total", "outcome" => outcome)
}
