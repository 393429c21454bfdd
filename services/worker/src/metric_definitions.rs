//! The metrics of the worker.

use std::time::Duration;

use mecapy_bus::Flow;
use mecapy_proto::v1::{CacheOutcome, TaskStatus};
use mecapy_service::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

const STATUSES: [TaskStatus; 6] = [
    TaskStatus::Succeeded,
    TaskStatus::Failed,
    TaskStatus::TimedOut,
    TaskStatus::Oom,
    TaskStatus::Cancelled,
    TaskStatus::Lost,
];
const CACHE_OUTCOMES: [CacheOutcome; 3] =
    [CacheOutcome::Hit, CacheOutcome::Miss, CacheOutcome::Failover];
const PATHS: [&str; 4] = ["parked", "started", "reused", "plain"];
const WARM_UPS: [&str; 8] =
    ["pulled", "code", "here", "left_out", "no_room", "not_ours", "not_passed", "failed"];

/// Says what each tells; what is counted begins at 0: the first of something is a rise too.
pub(crate) fn register() {
    describe_tasks();
    describe_images();
    for status in STATUSES {
        tasks(status).increment(0);
    }
    for outcome in CACHE_OUTCOMES {
        images_asked(outcome).increment(0);
        for path in PATHS {
            // Without samples, it is there.
            let _: Histogram = task_start(outcome, path);
        }
    }
    for path in PATHS {
        starts(path).increment(0);
    }
    for outcome in ["taken", "refused"] {
        offers(outcome).increment(0);
    }
    for outcome in WARM_UPS {
        warm_ups(outcome).increment(0);
    }
    counter!("mecapy_images_evicted_total").increment(0);
    counter!("registry_failover_total").increment(0);
    counter!("mecapy_containers_swept_total").increment(0);
    slots_in_use(0.0);
    drained(Flow::Takes);
    parked(0, 0, 0, 0);
}

fn describe_tasks() {
    describe_counter!(
        "mecapy_tasks_total",
        Unit::Count,
        "Tasks whose end was recorded here, by status"
    );
    describe_histogram!(
        "mecapy_task_start_seconds",
        Unit::Seconds,
        "From a task's request to its function's start, of first attempts; cache HIT: its image was here; path: parked, started, reused or plain"
    );
    describe_histogram!(
        "mecapy_task_run_seconds",
        Unit::Seconds,
        "From the function's start to its end, by status"
    );
    describe_counter!(
        "mecapy_task_starts_total",
        Unit::Count,
        "How functions were started: parked, in a container that waited; started, in one that was started for them of what is here of their dependencies; reused, in one that ran tasks of theirs before, as they asked for; plain, in one of their own image"
    );
    describe_counter!(
        "mecapy_tasks_offered_total",
        Unit::Count,
        "Tasks of a function that is at home on another worker: taken by that one, or refused: it had no free slot, or did not answer"
    );
    describe_gauge!("mecapy_worker_slots", Unit::Count, "Tasks that this worker runs at once");
    describe_gauge!("mecapy_worker_slots_in_use", Unit::Count, "Tasks that are in hand now");
    describe_gauge!(
        "mecapy_worker_drain_state",
        Unit::Count,
        "0: it takes tasks; 1: an operator drains it, and it finishes what it has; 2: it is drained"
    );
    describe_gauge!(
        "mecapy_parked_containers",
        Unit::Count,
        "Containers that wait for a task, by state: waiting, starting; kept, for the next task of the one function that they have run"
    );
    describe_gauge!(
        "mecapy_parked_dependencies",
        Unit::Count,
        "Sets of dependencies for which containers should wait"
    );
    describe_histogram!(
        "mecapy_park_seconds",
        Unit::Seconds,
        "How long it took to park a container; outcome is ok or error"
    );
    describe_counter!(
        "mecapy_containers_swept_total",
        Unit::Count,
        "Containers that a dead worker, or a removal that failed, had left behind"
    );
}

fn describe_images() {
    describe_counter!(
        "mecapy_image_cache_total",
        Unit::Count,
        "Whether a task's image was here: HIT, MISS, FAILOVER"
    );
    describe_gauge!("mecapy_cached_images", Unit::Count, "Images in the cache");
    describe_gauge!("mecapy_cached_image_bytes", Unit::Bytes, "What the images in the cache hold");
    describe_counter!("mecapy_images_evicted_total", Unit::Count, "Images put out of the cache");
    describe_counter!(
        "registry_failover_total",
        Unit::Count,
        "Pulls that the primary failed and the fallback was asked for"
    );
    describe_histogram!(
        "registry_pull_seconds",
        Unit::Seconds,
        "How long a pull took; registry is primary or fallback, outcome ok or what went wrong"
    );
    describe_gauge!(
        "registry_breaker_state",
        Unit::Count,
        "0: a registry is asked in its turn; 1: it is tried; 2: it is asked after the others, since it can't be reached"
    );
    describe_counter!(
        "mecapy_warm_ups_total",
        Unit::Count,
        "What was published or is a base, fetched before a task came: pulled, code (its dependencies wait already), here, or why not"
    );
}

/// Tasks whose end was recorded here, by status.
pub(crate) fn ended(status: TaskStatus) {
    tasks(status).increment(1);
}

fn tasks(status: TaskStatus) -> Counter {
    counter!("mecapy_tasks_total", "status" => status.as_str_name())
}

/// From a task's request to its function's start. `path` is parked, started, reused or plain.
pub(crate) fn began(cache: CacheOutcome, path: &'static str, took: Duration) {
    task_start(cache, path).record(took.as_secs_f64());
}

fn task_start(cache: CacheOutcome, path: &'static str) -> Histogram {
    histogram!("mecapy_task_start_seconds", "cache" => cache.as_str_name(), "path" => path)
}

/// From the function's start to its end.
pub(crate) fn ran(status: TaskStatus, took: Duration) {
    histogram!("mecapy_task_run_seconds", "status" => status.as_str_name())
        .record(took.as_secs_f64());
}

/// Whether a task's image was here: HIT, MISS, FAILOVER.
pub(crate) fn image_asked(outcome: CacheOutcome) {
    images_asked(outcome).increment(1);
}

fn images_asked(outcome: CacheOutcome) -> Counter {
    counter!("mecapy_image_cache_total", "outcome" => outcome.as_str_name())
}

pub(crate) fn slots(slots: usize) {
    gauge!("mecapy_worker_slots").set(slots as f64);
}

pub(crate) fn slots_in_use(change: f64) {
    gauge!("mecapy_worker_slots_in_use").increment(change);
}

/// 0: it takes tasks. 1: it is drained, and finishes what it has. 2: it has nothing any more.
pub(crate) fn drained(flow: Flow) {
    let number = match flow {
        Flow::Takes => 0.0,
        Flow::Finishes => 1.0,
        Flow::Rests => 2.0,
    };
    gauge!("mecapy_worker_drain_state").set(number);
}

/// Tasks of a function that is at home on another worker: taken by that one, or refused: it had no free slot, or did not answer.
pub(crate) fn offered(outcome: &'static str) {
    offers(outcome).increment(1);
}

fn offers(outcome: &'static str) -> Counter {
    counter!("mecapy_tasks_offered_total", "outcome" => outcome)
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
    warm_ups(outcome).increment(1);
}

fn warm_ups(outcome: &'static str) -> Counter {
    counter!("mecapy_warm_ups_total", "outcome" => outcome)
}

/// Containers that a dead worker, or a removal that failed, had left behind.
pub(crate) fn swept(containers: usize) {
    counter!("mecapy_containers_swept_total").increment(containers as u64);
}

/// Containers that wait for a task, those that are being started, those that wait for one function's next task, and for how
/// many sets of dependencies.
pub(crate) fn parked(waiting: usize, starting: usize, kept: usize, dependencies: usize) {
    gauge!("mecapy_parked_containers", "state" => "kept").set(kept as f64);
    gauge!("mecapy_parked_containers", "state" => "waiting").set(waiting as f64);
    gauge!("mecapy_parked_containers", "state" => "starting").set(starting as f64);
    gauge!("mecapy_parked_dependencies").set(dependencies as f64);
}

/// A container was parked, or could not be.
pub(crate) fn park(is_ok: bool, took: Duration) {
    let outcome = if is_ok { "ok" } else { "error" };
    histogram!("mecapy_park_seconds", "outcome" => outcome).record(took.as_secs_f64());
}

/// How a function was started: parked, started, reused, or plain.
pub(crate) fn started(path: &'static str) {
    starts(path).increment(1);
}

fn starts(path: &'static str) -> Counter {
    counter!("mecapy_task_starts_total", "path" => path)
}
