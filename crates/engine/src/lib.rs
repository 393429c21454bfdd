//! The Docker Engine, as the pipeline uses it: build an image, move it to and from a registry, run
//! one container to its end.
//!
//! # Invariants
//!
//! 1. **Nothing outlives its caller.** A build or run that ends, fails, is cancelled, passes its
//!    limit, or whose future is dropped leaves no container behind. Both go on in a task of their
//!    own until that is true; a [`Parked`] container is removed when it is dropped, and one whose function has ended
//!    with its [`Spent`], when its caller has time for it. Only the death of the whole process can break it, and
//!    [`Engine::remove_containers`] repairs that by label.
//! 2. **A limit ends the work, not the waiting.** When a build or run returns because of its limit
//!    or of a cancel, its processes are dead.
//! 3. **An end is proven.** `OutOfMemory` needs the kernel's word (the engine's flag or event):
//!    status 137 alone never is. The intent to kill is noted before killing, so that a time-out can't
//!    be read as anything else.
//! 4. **Whatever comes out of a container is hostile.** Streams are decoded piece by piece within
//!    caps; a cut is always told.
//! 5. **An image pulled by digest has that digest**, or the pull is an error.
//! 6. **Errors say whether trying again can help** ([`Error::is_transient`]).
//!
//! # The way of the data
//!
//! ```text
//! BuildRequest ─ context (tar in memory) ─▶ POST /build ─▶ build_log (lines) ─▶ LogSink
//!                                             ├─ container made ─▶ its processes limited
//!                                             └─ limit, cancel ─▶ connection closed ─▶ containers gone
//! RunRequest ─ hardening ─▶ create ─▶ attach ─▶ start ─▶ stdin, half-closed
//!                                       └─▶ frames (stdout, stderr, exit, result) ─▶ RunOutcome, Spent ─▶ removed
//! RunRequest ─▶ create ─▶ attach ─▶ start ─▶ "waits" ─▶ Parked ·· Turn ─▶ stdin ─▶ frames ─▶ RunOutcome, Spent ─▶ removed
//! ```

mod accompany;
mod archive;
mod auth;
mod build;
mod build_containers;
mod build_log;
mod capped;
mod companion;
mod connection;
mod containers;
mod context;
mod error;
mod frames;
mod hardening;
mod images;
mod memory_events;
mod metric_definitions;
mod park;
mod run;
mod spent;

pub use archive::Archive;
pub use auth::Credentials;
pub use build::{BuildRequest, BuiltImage};
pub use build_log::LogSink;
pub use capped::Capped;
pub use companion::{Companion, Input as CompanionInput, Output as CompanionOutput};
pub use connection::{Engine, Options};
pub use containers::Container;
pub use context::{CA_BUNDLE, ContextFile};
pub use error::Error;
pub use frames::OutputProblem;
pub use hardening::Limits;
pub use images::{ImageInfo, Layer};
pub use park::{Parked, Turn};
pub use run::{End, NameFiles, OutputSink, RUNNER, ReadOnlyFile, RunOutcome, RunRequest, Timings};
pub use spent::Spent;
