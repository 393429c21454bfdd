//! The engine against a real Docker Engine, and a real registry where one is needed.

// The lints spare test functions only; what they share may fail as they do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod base_image;
mod build;
mod companion;
mod fixture;
mod images;
mod park;
mod run;
mod troubled;
