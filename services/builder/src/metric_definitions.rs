//! The metrics of the builder.

use std::time::Duration;

use mecapy_service::metrics::{counter, histogram};

/// How builds end: built, a code of docs/errors, or transient.
pub(crate) fn ended(outcome: &'static str) {
    counter!("mecapy_builds_total", "outcome" => outcome).increment(1);
}

/// How builds of base images end: built, a code of docs/errors, or transient.
pub(crate) fn base_ended(outcome: &'static str) {
    counter!("mecapy_base_builds_total", "outcome" => outcome).increment(1);
}

/// Where dependency images come from: base (no requirements), found, built.
pub(crate) fn dependency_image(source: &'static str) {
    counter!("mecapy_build_dependency_images_total", "source" => source).increment(1);
}

/// Where locks come from: cached, resolved.
pub(crate) fn lock(source: &'static str) {
    counter!("mecapy_build_locks_total", "source" => source).increment(1);
}

/// What became of the connections that builds asked for: allowed, refused, failed, too_many.
pub(crate) fn egress(outcome: &'static str) {
    counter!("mecapy_build_egress_total", "outcome" => outcome).increment(1);
}

/// How long a part of a build takes: validate, resolve, install, push, append; base: a base image.
pub(crate) fn step(step: &'static str, took: Duration) {
    histogram!("mecapy_build_step_duration_seconds", "step" => step).record(took.as_secs_f64());
}
