//! The gateway: the door of the pipeline, over HTTP and over gRPC.
//!
//! Invariants:
//! 1. HTTP and gRPC are thin shells over [`Api`]: what one can do, the other can, with the same rules. Webhooks and
//!    workers are looked after over HTTP alone.
//! 2. A submission is one transaction: function, version, build, and the event that starts it. The caller's answer
//!    comes after the commit and never waits for NATS: the outbox sends what was written.
//! 3. An owner sees what is theirs; everything else does not exist for them.
//! 4. Every error is a problem document (RFC 9457) with a code that has a page, and the field where one is wrong.
//! 5. Who waits reads the database: a wake-up from NATS is a hint to look, and one missed costs two seconds (`look_every_seconds`).
//! 6. One subscription a process wakes every waiter ([`Hub`]); the lines of a log have one for each onlooker.
//!
//! The way of the data:
//!
//! ```text
//! HTTP ─▶ http  ─┐                    ┌─ functions, versions, builds ┐
//!                ├▶ Api ─▶ validate ─▶┤                              ├ one transaction ─▶ NATS ─▶ builder
//! gRPC ─▶ grpc  ─┘    ▲               └─ outbox: build.requested     ┘
//!                     └── Hub ◀── events as they pass by ◀── NATS ◀── builder, scanner, publisher, worker
//! ```

mod api;
mod auth;
mod backlog;
mod config;
mod console;
mod error;
mod grpc;
mod http;
mod hub;
mod metric_definitions;
mod pages;
mod serve;
mod trace;
mod validate;
mod view;
pub mod waterfall;

pub use api::{Api, Deps};
pub use auth::{Caller, Role, Tokens};
pub(crate) use backlog::Backlog;
pub use config::{Config, Options};
pub use console::ACTIONS as CONSOLE_ACTIONS;
pub use error::Error;
pub use http::routes;
pub(crate) use hub::Hub;
pub use serve::{Gateway, run};
