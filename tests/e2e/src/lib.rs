//! The whole system from outside: the services' real programs, on servers of a test's own.
//!
//! [`System`] starts the programs of `target/debug` with one configuration file, as Compose does;
//! [`Api`] is a user's view of the gateway. Everything ends with the test. [`Prometheus`] scrapes a system, and
//! [`operations`] reads what operators look at: metrics, dashboards, rules.

mod api;
mod chromium;
pub mod operations;
mod prometheus;
mod system;

pub use api::Api;
pub use chromium::Chromium;
pub use prometheus::{Prometheus, Scraped};
pub use system::{Service, System, push_base_image};
