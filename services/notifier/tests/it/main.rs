//! The notifier on a real NATS and PostgreSQL, and receivers on loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on fails")]

mod answers;
mod documented;
mod endings;
mod events;
mod patience;
mod receiver;
mod replicas;
mod world;
