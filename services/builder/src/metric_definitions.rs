//! The metrics of the builder.

use std::time::Duration;

use mecapy_proto::ErrorCode;
use mecapy_service::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram,
};

/// What alerts look for: most of them are no user's fault.
const WATCHED: [ErrorCode; 7] = [
    ErrorCode::BuildFailed,
    ErrorCode::BuildTimeout,
    ErrorCode::BuildOutOfMemory,
    ErrorCode::ImageTooLarge,
    ErrorCode::RegistryUnauthorized,
    ErrorCode::DigestMismatch,
    ErrorCode::Internal,
];

const STEPS: [&str; 7] = ["validate", "resolve", "install", "assemble", "push", "append", "base"];

/// Says what each tells; what is counted begins at 0: the first of something is a rise too.
pub(crate) fn register() {
    describe_counter!(
        "mecapy_builds_total",
        Unit::Count,
        "Builds by how the builder ended them: built, a code of docs/errors, or transient"
    );
    describe_counter!(
        "mecapy_base_builds_total",
        Unit::Count,
        "Builds of base images by how they ended: built, a code of docs/errors, or transient"
    );
    describe_counter!(
        "mecapy_build_dependency_images_total",
        Unit::Count,
        "Where dependency images come from: base (no requirements), found, built"
    );
    describe_counter!(
        "mecapy_build_locks_total",
        Unit::Count,
        "Where locks come from: cached, resolved"
    );
    describe_counter!(
        "mecapy_build_egress_total",
        Unit::Count,
        "What became of the connections that builds asked for: allowed, refused, failed, too_many"
    );
    describe_histogram!(
        "mecapy_build_step_duration_seconds",
        Unit::Seconds,
        "How long a part of a build takes: validate, resolve, install, assemble, push, append; base: a base image"
    );
    for outcome in ["built", "transient"].into_iter().chain(WATCHED.map(ErrorCode::as_str)) {
        builds(outcome).increment(0);
        base_builds(outcome).increment(0);
    }
    for step in STEPS {
        // Without samples, it is there.
        let _: Histogram = steps(step);
    }
    for source in ["base", "found", "built"] {
        dependency_images(source).increment(0);
    }
    for source in ["cached", "resolved"] {
        locks(source).increment(0);
    }
    for outcome in ["allowed", "refused", "failed", "too_many"] {
        connections(outcome).increment(0);
    }
}

/// How builds end: built, a code of docs/errors, or transient.
pub(crate) fn ended(outcome: &'static str) {
    builds(outcome).increment(1);
}

/// How builds of base images end: built, a code of docs/errors, or transient.
pub(crate) fn base_ended(outcome: &'static str) {
    base_builds(outcome).increment(1);
}

/// Where dependency images come from: base (no requirements), found, built.
pub(crate) fn dependency_image(source: &'static str) {
    dependency_images(source).increment(1);
}

/// Where locks come from: cached, resolved.
pub(crate) fn lock(source: &'static str) {
    locks(source).increment(1);
}

/// What became of a connection that a build asked for: allowed, refused, failed, too_many.
pub(crate) fn egress(outcome: &'static str) {
    connections(outcome).increment(1);
}

/// How long a part of a build takes: validate, resolve, install, assemble, push, append; base: a base image.
pub(crate) fn step(step: &'static str, took: Duration) {
    steps(step).record(took.as_secs_f64());
}

fn steps(step: &'static str) -> Histogram {
    histogram!("mecapy_build_step_duration_seconds", "step" => step)
}

fn builds(outcome: &'static str) -> Counter {
    counter!("mecapy_builds_total", "outcome" => outcome)
}

fn base_builds(outcome: &'static str) -> Counter {
    counter!("mecapy_base_builds_total", "outcome" => outcome)
}

fn dependency_images(source: &'static str) -> Counter {
    counter!("mecapy_build_dependency_images_total", "source" => source)
}

fn locks(source: &'static str) -> Counter {
    counter!("mecapy_build_locks_total", "source" => source)
}

fn connections(outcome: &'static str) -> Counter {
    counter!("mecapy_build_egress_total", "outcome" => outcome)
}
