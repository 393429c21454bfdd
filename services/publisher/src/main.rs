//! `mecapy-publisher`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mecapy_service::run("publisher", mecapy_publisher::run)
}
