//! The gateway against a real NATS, PostgreSQL and S3.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should say where")]

mod access;
mod builds;
mod console;
mod documents;
mod door;
mod errors;
mod events;
mod functions;
mod grpc;
mod kept;
mod rebuilds;
mod sse;
mod tasks;
mod traces;
mod waiting;
mod webhooks;
mod workers;
