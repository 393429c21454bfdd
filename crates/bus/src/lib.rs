//! The event chain over NATS JetStream: typed events in, one transaction, typed events out.
//!
//! Invariants:
//! 1. A message's effect is one PostgreSQL transaction: that it was handled (inbox), the new state, and what it
//!    sends (outbox). Only then is something published, and only then is the message acknowledged.
//! 2. A message that comes twice has its effect once: its id is derived from what it is about ([`mecapy_proto::Event`]).
//! 3. A message that can't be read, or whose handling fails for good, goes to the dead letters with the reason, and
//!    the queue goes on. Nothing is dropped.
//! 4. An outbox row is deleted only after the stream has acknowledged the message; a relay sends what a dead
//!    process left.
//! 5. The ack is never the fence: the database row is.
//! 6. `mecapy setup` alone makes streams, consumers and buckets ([`topology`]); services bind, and wait until it has run.
//!
//! The way of a message: [`Consumer`] pulls as many as it has slots → `envelope` reads headers and body →
//! `delivery` looks into the inbox, calls the [`Handler`], commits its [`Outcome`], publishes, acknowledges.

mod backbone;
mod bucket;
mod connection;
mod consumer;
pub mod dead_letters;
mod delivery;
mod drains;
mod envelope;
mod handler;
mod live;
mod metric_definitions;
mod offers;
mod outbox;
mod pause;
mod publisher;
mod replicas;
mod results;
pub mod topology;
mod trace;
pub mod waiting;
mod workers;

pub use backbone::Backbone;
pub use connection::{Bus, Options};
pub use consumer::{Consumer, ConsumerOptions};
pub use drains::{DrainOrder, Drains};
pub use handler::{Delivery, Handler, HandlerError, Outcome, Outgoing};
pub use live::{LateFollower, Live, LiveLines, Position, Words};
pub use outbox::Outbox;
pub use pause::{Flow, Pause};
pub use replicas::{ReplicaStatus, Replicas};
pub use results::Results;
pub use trace::{caused_by, current as traceparent, trace_id};
pub use workers::{ParkedStatus, RegistryStatus, Sign, WorkerStatus, Workers};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("nats.url: {0}")]
    Options(String),
    #[error("can't reach NATS: {0}")]
    Connect(String),
    #[error("JetStream: {what}: {cause}")]
    JetStream { what: String, cause: String },
    #[error("{0} is not there yet: run `mecapy setup`")]
    NotSetUp(String),
    #[error("publishing to {subject}: {cause}")]
    Publish { subject: String, cause: String },
    #[error(transparent)]
    Store(#[from] mecapy_store::Error),
}

impl Error {
    fn jetstream(what: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::JetStream { what: what.into(), cause: cause.to_string() }
    }
}
