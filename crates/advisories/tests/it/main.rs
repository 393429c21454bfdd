//! Exports on the disk and on a server, and databases that are replaced while they are read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that can't go on should say where"
)]

mod export;
mod exports;
mod replacing;
