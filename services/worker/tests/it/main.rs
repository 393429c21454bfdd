//! The worker on real servers, a real engine and real images.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on should say where"
)]

mod affinity;
mod attempts;
mod containers;
mod drain;
mod hostile;
mod images;
mod parked;
mod parked_tasks;
mod pool;
mod published;
mod refusals;
mod reuse;
mod runs;
mod told;
mod world;
