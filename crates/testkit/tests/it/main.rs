//! The test servers themselves.

#![allow(
    clippy::unwrap_used,
    reason = "a failed step is a failed test, also in a function that tests share"
)]

mod servers;
mod watchdog;
