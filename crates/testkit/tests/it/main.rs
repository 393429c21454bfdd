//! The test servers themselves.

mod servers;
mod watchdog;
