//! The metrics of the mirror.

use mecapy_service::metrics::{
    Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge,
};
use mecapy_store::mirror_runs::Outcome;

/// Says what each tells; what is counted begins at 0: the first of something is a rise too.
pub(crate) fn register() {
    describe_counter!(
        "registry_mirror_images_total",
        Unit::Count,
        "Images by what became of them: mirrored, unchanged, not_found, failed"
    );
    describe_counter!(
        "registry_mirror_bytes_total",
        Unit::Bytes,
        "Blob bytes of mirrored images: sent, and saved by mounting or by what was there"
    );
    describe_counter!(
        "registry_mirror_runs_total",
        Unit::Count,
        "Runs that have ended: complete, or incomplete with images that failed or were not found"
    );
    describe_counter!(
        "registry_mirror_corrupt_images_total",
        Unit::Count,
        "Images of the fallback that were read back and are not what they should be"
    );
    describe_gauge!(
        "registry_mirror_lag_seconds",
        Unit::Seconds,
        "Since the end of the last complete run over the most used images; not there before the first"
    );
    describe_gauge!(
        "registry_mirror_oldest_unmirrored_seconds",
        Unit::Seconds,
        "How long the oldest image in use has been published without a copy; 0: all have one"
    );
    for outcome in Outcome::ALL {
        images(outcome.as_str()).increment(0);
    }
    for how in ["sent", "saved"] {
        bytes(how).increment(0);
    }
    for status in ["complete", "incomplete"] {
        runs(status).increment(0);
    }
    corrupt().increment(0);
}

pub(crate) fn images(status: &'static str) -> Counter {
    counter!("registry_mirror_images_total", "status" => status)
}

pub(crate) fn bytes(how: &'static str) -> Counter {
    counter!("registry_mirror_bytes_total", "how" => how)
}

pub(crate) fn runs(status: &'static str) -> Counter {
    counter!("registry_mirror_runs_total", "status" => status)
}

pub(crate) fn corrupt() -> Counter {
    counter!("registry_mirror_corrupt_images_total")
}

pub(crate) fn lag_seconds() -> Gauge {
    gauge!("registry_mirror_lag_seconds")
}

pub(crate) fn oldest_unmirrored_seconds() -> Gauge {
    gauge!("registry_mirror_oldest_unmirrored_seconds")
}
