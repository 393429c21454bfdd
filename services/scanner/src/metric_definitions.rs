//! The metrics of the scanner.

use std::time::Duration;

use mecapy_service::metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use crate::severity::Severity;

/// Says what each tells; what is counted begins at 0: the first of something is a rise too.
pub(crate) fn register() {
    describe_counter!(
        "mecapy_scans_total",
        Unit::Count,
        "Scans by how they ended: passed, rejected, failed"
    );
    describe_histogram!(
        "mecapy_scan_duration_seconds",
        Unit::Seconds,
        "From the question to the verdict, without the writing of reports"
    );
    describe_counter!(
        "mecapy_scan_findings_total",
        Unit::Count,
        "What advisories knew of scanned images, by severity"
    );
    describe_counter!(
        "mecapy_scan_layers_total",
        Unit::Count,
        "Layers of scanned images by where their index came from: memory, store, read"
    );
    describe_gauge!(
        "mecapy_advisory_database_age_seconds",
        Unit::Seconds,
        "Since the newest advisory of the family that has waited longest for news; 0 for the starter set, which does not age"
    );
    describe_gauge!(
        "mecapy_advisory_database_advisories",
        Unit::Count,
        "Advisories in the database in force"
    );
    describe_histogram!(
        "mecapy_rematch_duration_seconds",
        Unit::Seconds,
        "How long it took to match all live images with a new database or policy"
    );
    describe_gauge!(
        "mecapy_rematch_unindexed_images",
        Unit::Count,
        "Live images whose layers are not known, so that a new database can't be matched with them"
    );
    describe_counter!(
        "mecapy_scans_revoked_total",
        Unit::Count,
        "Images by what a new database or policy changed: revoked, restored"
    );
    describe_counter!(
        "mecapy_code_scanning_uploads_total",
        Unit::Count,
        "Findings of base images for code scanning: uploaded, failed"
    );
    for outcome in ["passed", "rejected", "failed"] {
        scans(outcome).increment(0);
    }
    for severity in Severity::ALL {
        findings(severity).increment(0);
    }
    for from in ["memory", "store", "read"] {
        layers(from).increment(0);
    }
    for outcome in ["revoked", "restored"] {
        revoked(outcome).increment(0);
    }
    for outcome in ["uploaded", "failed"] {
        uploads(outcome).increment(0);
    }
    unindexed_images().increment(0.0);
    // Without samples, it is there.
    let _: Histogram = scan_duration();
}

pub(crate) fn scans(outcome: &'static str) -> Counter {
    counter!("mecapy_scans_total", "outcome" => outcome)
}

pub(crate) fn scanned(took: Duration) {
    scan_duration().record(took.as_secs_f64());
}

fn scan_duration() -> Histogram {
    histogram!("mecapy_scan_duration_seconds")
}

pub(crate) fn findings(severity: Severity) -> Counter {
    counter!("mecapy_scan_findings_total", "severity" => severity.as_str())
}

pub(crate) fn layers(from: &'static str) -> Counter {
    counter!("mecapy_scan_layers_total", "from" => from)
}

pub(crate) fn database_age_seconds() -> Gauge {
    gauge!("mecapy_advisory_database_age_seconds")
}

pub(crate) fn database_advisories() -> Gauge {
    gauge!("mecapy_advisory_database_advisories")
}

pub(crate) fn rematched(took: Duration) {
    histogram!("mecapy_rematch_duration_seconds").record(took.as_secs_f64());
}

pub(crate) fn unindexed_images() -> Gauge {
    gauge!("mecapy_rematch_unindexed_images")
}

pub(crate) fn revoked(outcome: &'static str) -> Counter {
    counter!("mecapy_scans_revoked_total", "outcome" => outcome)
}

pub(crate) fn uploads(outcome: &'static str) -> Counter {
    counter!("mecapy_code_scanning_uploads_total", "outcome" => outcome)
}
