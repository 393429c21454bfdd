//! The metrics of calls to the Docker Engine.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

/// Says what each tells.
pub(crate) fn register() {
    describe_histogram!(
        "engine_call_duration_seconds",
        Unit::Seconds,
        "How long the engine took to answer a call; outcome is ok or error"
    );
    describe_counter!(
        "engine_containers_left_total",
        Unit::Count,
        "Containers that could not be removed and were left to the sweep by label"
    );
    counter!("engine_containers_left_total").increment(0);
}

pub(crate) fn called(call: &'static str, is_ok: bool, took: Duration) {
    let outcome = if is_ok { "ok" } else { "error" };
    histogram!("engine_call_duration_seconds", "call" => call, "outcome" => outcome)
        .record(took.as_secs_f64());
}

pub(crate) fn container_left() {
    counter!("engine_containers_left_total").increment(1);
}
