//! The metrics of the bus.

use std::time::Duration;

use mecapy_service::metrics::{Counter, Gauge, counter, gauge, histogram};

/// How the handling of a message ended: handled, duplicate, retried, dead_lettered, handed_back.
pub(crate) fn deliveries(consumer: &str, outcome: &'static str) -> Counter {
    counter!("mecapy_deliveries_total", "consumer" => consumer.to_owned(), "outcome" => outcome)
}

pub(crate) fn redeliveries(consumer: &str) -> Counter {
    counter!("mecapy_redeliveries_total", "consumer" => consumer.to_owned())
}

pub(crate) fn dead_letters(consumer: &str, reason: &'static str) -> Counter {
    counter!("mecapy_dead_letters_total", "consumer" => consumer.to_owned(), "reason" => reason)
}

/// From a message's arrival to its ack.
pub(crate) fn handled(consumer: &str, took: Duration) {
    histogram!("mecapy_stage_duration_seconds", "consumer" => consumer.to_owned())
        .record(took.as_secs_f64());
}

pub(crate) fn in_flight(consumer: &str) -> Gauge {
    gauge!("mecapy_in_flight", "consumer" => consumer.to_owned())
}

/// Messages that wait in the outbox for longer than they should.
pub(crate) fn outbox_overdue() -> Gauge {
    gauge!("mecapy_outbox_overdue")
}

pub(crate) fn published(subject: &str) -> Counter {
    counter!("mecapy_published_total", "subject" => subject.to_owned())
}

/// A consumer that had to be bound again.
pub(crate) fn rebinds(consumer: &str) -> Counter {
    counter!("mecapy_consumer_rebinds_total", "consumer" => consumer.to_owned())
}

pub(crate) fn server_errors() -> Counter {
    counter!("mecapy_nats_errors_total")
}
