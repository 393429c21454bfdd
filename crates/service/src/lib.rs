//! What every service is made of: configuration, logs, traces, metrics, health, signals and the drain.
//!
//! Invariants:
//! 1. A bad configuration is one line that names the key, and exit code 64; nothing is bound or connected before.
//! 2. A secret never shows itself ([`Secret`]).
//! 3. SIGTERM and SIGINT cancel [`Context::shutdown`]; what runs has the grace time to finish or hand back;
//!    then spans are flushed, and the process exits 0.
//! 4. `/readyz` tells in words what is waited for; `/livez` answers as long as the process does.
//!
//! The way through: a service's `main` calls [`run`] with its name and a function from (config, context) to
//! the future that is the service.

mod admin;
mod config;
mod cron;
mod health;
mod metric_definitions;
mod run;
mod secret;
mod steps;
mod telemetry;

pub use config::{Config, ConfigError, check, load};
pub use cron::Schedule;
pub use health::{Condition, Health};
pub use run::{Context, Options, chain, run};
pub use secret::Secret;
pub use steps::{Step, Steps, step};
pub use telemetry::{
    Error as TelemetryError, Options as TelemetryOptions, Telemetry, init as start_telemetry,
    install_tls,
};

/// The `metrics` crate that the recorder of [`run`] serves, so that all crates use one version.
pub use metrics;
