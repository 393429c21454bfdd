//! Layers as hostile and as ordinary as they come, and images in a real registry.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that can't go on should say where"
)]

mod chain;
mod code_scanning;
mod images;
mod layers;
mod rematch;
mod schemas;
mod tarball;
mod trivy;
