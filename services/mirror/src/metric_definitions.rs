//! The metrics of the mirror.

use mecapy_service::metrics::{Counter, Gauge, counter, gauge};

/// Images by what became of them: mirrored, unchanged, not_found, failed.
pub(crate) fn images(status: &'static str) -> Counter {
    counter!("registry_mirror_images_total", "status" => status)
}

/// Blob bytes of mirrored images: sent, and saved by mounting or by what was there.
pub(crate) fn bytes(how: &'static str) -> Counter {
    counter!("registry_mirror_bytes_total", "how" => how)
}

/// Runs that have ended: complete, or with images that failed or were not found.
pub(crate) fn runs(status: &'static str) -> Counter {
    counter!("registry_mirror_runs_total", "status" => status)
}

/// Images of the fallback that were read back and are not what they should be. One is an alert.
pub(crate) fn corrupt() -> Counter {
    counter!("registry_mirror_corrupt_images_total")
}

/// Seconds since the end of the last complete run over the most used images.
pub(crate) fn lag_seconds() -> Gauge {
    gauge!("registry_mirror_lag_seconds")
}

/// How long the oldest image in use has been published without a copy; 0: all have one.
pub(crate) fn oldest_unmirrored_seconds() -> Gauge {
    gauge!("registry_mirror_oldest_unmirrored_seconds")
}
