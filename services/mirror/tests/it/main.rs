//! The mirror as a service, on real NATS, PostgreSQL, S3 and two registries.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on fails")]

mod ends;
mod faults;
mod runs;
mod shared;
mod slow_proxy;
mod world;
