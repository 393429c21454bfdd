//! Real servers for tests: NATS JetStream, PostgreSQL, two OCI registries and S3, as
//! containers of the images that `make images` builds.
//!
//! ```no_run
//! # async fn example() {
//! use mecapy_testkit::Infra;
//! let infra = Infra::shared().await;
//! let nats = infra.nats().await; // an account that nobody else has
//! let database = infra.postgres().await; // a database that nobody else has
//! # }
//! ```
//!
//! # Invariants
//!
//! 1. Tests of one process share the servers and nothing on them: every call hands out
//!    an account, a database or a bucket of its own. In the registries, which have no
//!    such thing, a test works in repositories named with [`unique`].
//! 2. A server keeps its port over [`Infra::stop`] and [`Infra::resume`].
//! 3. No container outlives the process, also when it is killed: a watchdog in a session
//!    of its own removes them when the pipe to this process closes.
//! 4. A server is ready when [`Infra::shared`], [`Infra::start`] or [`Infra::resume`]
//!    returns: it has answered in its own protocol.
//!
//! # The way of the data
//!
//! [`Infra`] starts a [`watchdog`], then one [`container`] for each [`Server`] on a
//! [`port`] that is free, all at once, and probes each until it is [`ready`].
//!
//! Everything here panics when it fails: a test can't go on without its servers.

#![allow(clippy::panic, clippy::expect_used, reason = "only tests use this crate")]

mod container;
mod engine_front;
mod infra;
mod json_schema;
mod port;
mod ready;
mod server;
mod unique;
mod wait;
mod watchdog;

pub use engine_front::EngineFront;
pub use infra::{Infra, Nats, RegistryServer, S3};
pub use json_schema::JsonSchema;
pub use port::{Port, free_port};
pub use server::Server;
pub use unique::unique;
pub use wait::eventually;
