//! The metrics of the worker.

use std::time::Duration;

use mecapy_proto::v1::{CacheOutcome, TaskStatus};
use mecapy_service::metrics::{counter, gauge, histogram};

/// Tasks whose end was recorded here, by status.
pub(crate) fn ended(status: TaskStatus) {
    counter!("mecapy_tasks_total", "status" => status.as_str_name()).increment(1);
}

/// From the container's start to the function's end.
pub(crate) fn ran(status: TaskStatus, took: Duration) {
    histogram!("mecapy_task_run_seconds", "status" => status.as_str_name())
        .record(took.as_secs_f64());
}

/// Whether a task's image was here: HIT, MISS, FAILOVER.
pub(crate) fn image_asked(outcome: CacheOutcome) {
    counter!("mecapy_image_cache_total", "outcome" => outcome.as_str_name()).increment(1);
}

pub(crate) fn slots(slots: usize) {
    gauge!("mecapy_worker_slots").set(slots as f64);
}

pub(crate) fn slots_in_use(change: f64) {
    gauge!("mecapy_worker_slots_in_use").increment(change);
}

/// What the cache holds.
pub(crate) fn cached(images: usize, bytes: u64) {
    gauge!("mecapy_cached_images").set(images as f64);
    gauge!("mecapy_cached_image_bytes").set(bytes as f64);
}

pub(crate) fn evicted() {
    counter!("mecapy_images_evicted_total").increment(1);
}

/// Pulls that the primary failed and the fallback was asked for.
pub(crate) fn failover() {
    counter!("registry_failover_total").increment(1);
}

/// `registry` is primary or fallback; `outcome` ok or what went wrong.
pub(crate) fn pulled(registry: &'static str, outcome: &'static str, took: Duration) {
    histogram!("registry_pull_seconds", "registry" => registry, "outcome" => outcome)
        .record(took.as_secs_f64());
}

/// 0: it is asked in its turn. 1: it is tried. 2: it is asked after the others, since it can't be reached.
pub(crate) fn breaker(registry: &'static str, state: &str) {
    let number = match state {
        "closed" => 0.0,
        "half-open" => 1.0,
        _ => 2.0,
    };
    gauge!("registry_breaker_state", "registry" => registry).set(number);
}

/// What was published or is a base, fetched before a task came: pulled, code (its dependencies wait already), here,
/// or why not.
pub(crate) fn warmed_up(outcome: &'static str) {
    counter!("mecapy_warm_ups_total", "outcome" => outcome).increment(1);
}

/// Containers that a dead worker, or a removal that failed, had left behind.
pub(crate) fn swept(containers: usize) {
    counter!("mecapy_containers_swept_total").increment(containers as u64);
}

/// Containers that wait for a task, those that are being started, and for how many sets of dependencies.
pub(crate) fn parked(waiting: usize, starting: usize, dependencies: usize) {
    gauge!("mecapy_parked_containers", "state" => "waiting").set(waiting as f64);
    gauge!("mecapy_parked_containers", "state" => "starting").set(starting as f64);
    gauge!("mecapy_parked_dependencies").set(dependencies as f64);
}

/// A container was parked, or could not be.
pub(crate) fn park(is_ok: bool, took: Duration) {
    let outcome = if is_ok { "ok" } else { "error" };
    histogram!("mecapy_park_seconds", "outcome" => outcome).record(took.as_secs_f64());
}

/// How a function was started: parked, or plain.
pub(crate) fn started(path: &'static str) {
    counter!("mecapy_task_starts_total", "path" => path).increment(1);
}
