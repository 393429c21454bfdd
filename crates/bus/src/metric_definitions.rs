//! The metrics of the bus.

use std::time::Duration;

use mecapy_service::metrics::{
    Counter, Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

const OUTCOMES: [&str; 6] =
    ["handled", "duplicate", "retried", "dead_lettered", "handed_back", "passed_on"];
const REASONS: [&str; 3] = ["unreadable", "permanent", "exhausted"];

/// Says what each tells.
pub(crate) fn register() {
    describe_counter!(
        "mecapy_deliveries_total",
        Unit::Count,
        "Messages by how their handling ended: handled, duplicate, retried, dead_lettered, handed_back, passed_on"
    );
    describe_counter!("mecapy_redeliveries_total", Unit::Count, "Messages that came again");
    describe_counter!(
        "mecapy_dead_letters_total",
        Unit::Count,
        "Messages that became dead letters, by reason: unreadable, permanent, exhausted"
    );
    describe_histogram!(
        "mecapy_stage_duration_seconds",
        Unit::Seconds,
        "From a message's arrival to its ack"
    );
    describe_gauge!("mecapy_in_flight", Unit::Count, "Messages that are handled now");
    describe_gauge!(
        "mecapy_outbox_overdue",
        Unit::Count,
        "Messages that wait in the outbox for longer than they should"
    );
    describe_counter!("mecapy_published_total", Unit::Count, "Events sent");
    describe_counter!(
        "mecapy_consumer_rebinds_total",
        Unit::Count,
        "Times that a consumer was lost and bound again"
    );
    describe_counter!(
        "mecapy_nats_errors_total",
        Unit::Count,
        "What NATS refused: most often a permission"
    );
    describe_gauge!(
        "mecapy_consumer_waiting",
        Unit::Count,
        "Messages that wait for a consumer and are not out with any replica, as the janitor sees it"
    );
    describe_gauge!(
        "mecapy_consumer_unacknowledged",
        Unit::Count,
        "Messages that are out with replicas of a consumer, as the janitor sees it"
    );
    describe_gauge!(
        "mecapy_dead_letters_kept",
        Unit::Count,
        "Dead letters that nobody has replayed or dropped, as the janitor sees it"
    );
    outbox_overdue().set(0.0);
    server_errors().increment(0);
}

/// What a consumer counts begins at 0: the first of something is a rise too.
pub(crate) fn register_consumer(consumer: &'static str) {
    for outcome in OUTCOMES {
        deliveries(consumer, outcome).increment(0);
    }
    for reason in REASONS {
        dead_letters(consumer, reason).increment(0);
    }
    redeliveries(consumer).increment(0);
    rebinds(consumer).increment(0);
    in_flight(consumer).increment(0.0);
}

pub(crate) fn deliveries(consumer: &'static str, outcome: &'static str) -> Counter {
    counter!("mecapy_deliveries_total", "consumer" => consumer, "outcome" => outcome)
}

pub(crate) fn redeliveries(consumer: &'static str) -> Counter {
    counter!("mecapy_redeliveries_total", "consumer" => consumer)
}

pub(crate) fn dead_letters(consumer: &'static str, reason: &'static str) -> Counter {
    counter!("mecapy_dead_letters_total", "consumer" => consumer, "reason" => reason)
}

pub(crate) fn handled(consumer: &'static str, took: Duration) {
    histogram!("mecapy_stage_duration_seconds", "consumer" => consumer).record(took.as_secs_f64());
}

pub(crate) fn in_flight(consumer: &'static str) -> Gauge {
    gauge!("mecapy_in_flight", "consumer" => consumer)
}

pub(crate) fn outbox_overdue() -> Gauge {
    gauge!("mecapy_outbox_overdue")
}

pub(crate) fn published(subject: &str) -> Counter {
    counter!("mecapy_published_total", "subject" => subject.to_owned())
}

pub(crate) fn rebinds(consumer: &'static str) -> Counter {
    counter!("mecapy_consumer_rebinds_total", "consumer" => consumer)
}

pub(crate) fn server_errors() -> Counter {
    counter!("mecapy_nats_errors_total")
}

/// How many messages wait for a consumer, and how many are out with it.
pub(crate) fn backlog(consumer: &'static str, waiting: u64, unacknowledged: usize) {
    gauge!("mecapy_consumer_waiting", "consumer" => consumer).set(waiting as f64);
    gauge!("mecapy_consumer_unacknowledged", "consumer" => consumer).set(unacknowledged as f64);
}

pub(crate) fn dead_letters_kept(count: u64) {
    gauge!("mecapy_dead_letters_kept").set(count as f64);
}
