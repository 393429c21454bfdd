//! The metrics of the notifier.

use std::time::Duration;

use mecapy_service::metrics::{
    Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use mecapy_store::webhooks::Notice;

const OUTCOMES: [&str; 4] = ["delivered", "failed", "given_up", "gone"];

/// Says what each tells; what is counted begins at 0: the first of something is a rise too.
pub(crate) fn register() {
    describe_counter!(
        "mecapy_webhook_deliveries_total",
        Unit::Count,
        "Messages to deliver, by what they tell: ready, rejected, failed, revoked, task_ended"
    );
    describe_counter!(
        "mecapy_webhook_attempts_total",
        Unit::Count,
        "Tries to deliver, by how they ended: delivered, failed (tried again later), given_up, gone"
    );
    describe_histogram!(
        "mecapy_webhook_attempt_duration_seconds",
        Unit::Seconds,
        "How long a try took, from the look-up of the receiver's name to its answer"
    );
    describe_gauge!(
        "mecapy_webhook_waiting",
        Unit::Count,
        "Messages that are not delivered yet, those that wait for their next try among them"
    );
    describe_gauge!(
        "mecapy_webhook_overdue_seconds",
        Unit::Seconds,
        "For how long the message that is longest due has been due"
    );
    for notice in Notice::ALL {
        deliveries(*notice).increment(0);
    }
    for outcome in OUTCOMES {
        attempts(outcome).increment(0);
    }
    waiting(0, Duration::ZERO);
}

pub(crate) fn deliveries(notice: Notice) -> Counter {
    counter!("mecapy_webhook_deliveries_total", "event" => notice.as_str())
}

pub(crate) fn attempts(outcome: &'static str) -> Counter {
    counter!("mecapy_webhook_attempts_total", "outcome" => outcome)
}

pub(crate) fn attempt_took(took: Duration) {
    histogram!("mecapy_webhook_attempt_duration_seconds").record(took.as_secs_f64());
}

pub(crate) fn waiting(number: i64, overdue: Duration) {
    gauge!("mecapy_webhook_waiting").set(number as f64);
    gauge!("mecapy_webhook_overdue_seconds").set(overdue.as_secs_f64());
}
