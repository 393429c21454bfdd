//! The metrics of every service.

use std::time::SystemTime;

use metrics::{Unit, describe_gauge, gauge};

/// Says what each tells, and since when and as which version this process runs.
pub(crate) fn register() {
    describe_gauge!(
        "mecapy_condition_met",
        Unit::Count,
        "Whether what the service waits for is there, as /readyz tells it in words: 1 or 0"
    );
    describe_gauge!(
        "mecapy_start_time_seconds",
        Unit::Seconds,
        "When the process began, in seconds since 1970, with its version"
    );
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    gauge!("mecapy_start_time_seconds", "version" => env!("CARGO_PKG_VERSION"))
        .set(began.as_secs_f64());
}

pub(crate) fn condition(condition: &'static str, is_met: bool) {
    gauge!("mecapy_condition_met", "condition" => condition).set(f64::from(u8::from(is_met)));
}
