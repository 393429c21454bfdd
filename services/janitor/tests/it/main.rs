//! The janitor against real servers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test that can't go on should say where"
)]

mod cleanup;
mod garbage;
mod sweep;
