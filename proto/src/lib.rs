//! The events of the pipeline and the gateway's gRPC API, generated from `mecapy/v1/*.proto`.
//!
//! Invariants:
//! 1. Every event names its subject, and the key of the thing that it is about ([`Event`]).
//!    The same key on the same subject is the same message, however often it is published.
//! 2. Ids are typed: a [`BuildId`] can't be passed where a [`TaskId`] is meant.
//! 3. JSON is the canonical protobuf mapping, so that events can be written by hand.

mod codes;
mod event;
mod ids;
mod inputs;

pub use codes::{ErrorCode, failure};
pub use event::{Event, SUBJECTS};
pub use ids::{BuildId, FunctionId, IdError, Owner, TaskId};
pub use inputs::inputs_sha256;

/// The generated types.
pub mod v1 {
    #![allow(clippy::all, clippy::pedantic, clippy::unwrap_used)]
    include!(concat!(env!("OUT_DIR"), "/mecapy.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/mecapy.v1.serde.rs"));
}
