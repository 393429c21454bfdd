//! The metrics of this crate, by name.

/// Histogram, `call` and `outcome` (`ok`, `error`): how long the engine took to answer a call.
pub(crate) const CALL_SECONDS: &str = "engine_call_duration_seconds";
/// Counter: containers that could not be removed and were left to the sweep by label.
pub(crate) const CONTAINERS_LEFT: &str = "engine_containers_left_total";
