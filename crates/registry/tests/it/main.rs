//! The client against real registries, and against a server that answers what a test wants where a
//! real one can't be made to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should say where")]

mod append;
mod auth;
mod blobs;
mod broken_blobs;
mod byte_proxy;
mod copy;
mod crowds;
mod embedded;
mod fake;
mod faults;
mod hard_times;
mod images;
mod inventory;
mod inventory_api;
mod inventory_ghcr;
mod inventory_scaleway;
mod lies;
mod listing;
mod manifests;
mod other_hosts;
mod proxy;
mod reach;
mod referrers;
mod servers;
mod tls;
mod tokens;
