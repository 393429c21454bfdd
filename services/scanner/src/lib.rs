//! The scanner: reads a built image from staging by digest, finds what advisories know of its packages, and gives
//! the verdict without which nothing is published or run.
//!
//! Invariants:
//! 1. Nothing passes unscanned. An image that wasn't wholly read, an engine that failed, a time-out, a database that
//!    is missing or too old: an [`Error`], never [`verdict::Verdict::Passed`].
//! 2. What is scanned is what was asked for: the manifest is read by digest, each layer's bytes are hashed to the last
//!    before its index is used or kept.
//! 3. A layer costs bounded time and memory whatever is in it ([`layer::Limits`]); the limit is an error.
//! 4. Reading and matching are apart. An index says what a layer contains, never what is wrong with it: another
//!    image on the same layer, and a new database, need no second reading.
//! 5. Where records are unclear, the reading that flags wins over the one that passes.
//! 6. A new database is matched with every live image. What it revokes is recorded and told in one transaction, once.
//! 7. The verdict is a pure function of the findings, the policy and the time, and reports are a pure function of the scan.
//!
//! The way of the data, from `build.done` to `scan.done` ([`Scanner`]):
//!
//! ```text
//! digest ─▶ manifest ─▶ layers ─▶ cache ─┬─ known ────────────────▶ LayerIndex ─┐
//!                                        └─ blob ▶ decompress ▶ tar ▶ LayerIndex ─┴▶ image::merge ─▶ packages
//! mecapy_advisories::Database ─────────────────────────────────────────────────▶ finding::find ─▶ findings
//!                                                                     findings ─▶ verdict::decide ─▶ Report
//! ```

mod advisories;
mod cache;
pub mod code_scanning;
mod config;
pub mod engine;
mod error;
pub mod finding;
pub mod image;
pub mod layer;
mod metric_definitions;
pub mod osv;
pub mod package;
pub mod policy;
pub mod rematch;
pub mod report;
mod run;
mod scanner;
pub mod trivy;
pub mod verdict;

pub use advisories::Advisories;
pub use cache::LayerCache;
pub use config::{Config, Options};
pub use engine::{Engine, Scan, Target};
pub use error::Error;
pub use mecapy_advisories::severity;
pub use osv::Osv;
pub use report::Report;
pub use run::run;
pub use scanner::Scanner;
