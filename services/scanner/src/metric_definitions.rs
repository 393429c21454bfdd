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
