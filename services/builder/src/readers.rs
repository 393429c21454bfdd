//! What reads strangers' bytes, as the root of a crate of its own: for the fuzzer (fuzz/Cargo.toml), which is compiled so
//! without all that the builder stands on.

#![allow(dead_code, unused_imports, reason = "the builder has a use for all of it")]

mod rejection;
pub mod requirements;
pub mod validation;

pub use rejection::Rejection;
