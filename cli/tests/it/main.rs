//! The built program, as a script would run it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod advisories;
mod bases;
mod cleanup;
mod dead_letters;
mod fake_gateway;
mod functions;
mod mirror;
mod program;
mod servers;
mod setup;
mod tasks;
mod trace;
mod webhooks;
mod workers;
