//! The builder against CPython's own parser, a real Docker Engine and registry, and the real event chain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that can't go on should say where, and one that is skipped should say so"
)]

mod allow_list;
mod base_races;
mod bases;
mod builds;
mod cpython;
mod equivalence;
mod events;
mod fixture;
mod fuzz;
mod hostile;
mod hostile_packages;
mod limits;
mod memory;
mod network;
mod pip;
mod refusals;
mod replicas;
mod sources;
