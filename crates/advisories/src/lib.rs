//! Advisories: which versions of which packages have which flaw, and how bad it is.
//!
//! Invariants:
//! 1. Of an export every record is read, or nothing is: a database with a hole in it passes what it should reject.
//! 2. Versions compare by the rules of their ecosystem ([`version`]), and where a record is unclear, the reading that
//!    flags wins over the one that passes ([`Affected`]).
//! 3. A database is one file. It opens without being parsed, and a package's advisories are read when they are asked
//!    for. It is replaced by rename: who has the old one open goes on with it, who opens gets one or the other, whole.
//! 4. What was changed on the disk is an error when it is read ([`Error::DatabaseCorrupt`]), never an empty answer.
//! 5. Equal records give equal bytes and an equal version, in whatever order they come.
//!
//! The way of the data:
//!
//! ```text
//! osv.dev ─ download ─▶ zip ─ import ─▶ Record ─▶ Builder ─▶ one file ─▶ Database ─ hits ─▶ Hit
//! ```

mod advisory;
mod builder;
mod codec;
mod database;
mod download;
pub mod ecosystem;
mod error;
mod import;
mod index;
mod info;
mod range;
mod record;
pub mod severity;
mod store;
pub mod version;

pub use advisory::Advisory;
pub use database::{Database, Hit};
pub use download::{Mirror, download};
pub use error::Error;
pub use info::{EcosystemInfo, Info};
pub use range::{Affected, Event};
pub use store::{Import, Replaced, import, replace};
pub use version::{Installed, Scheme};
