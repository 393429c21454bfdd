//! `mecapy-janitor`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mecapy_service::run("janitor", mecapy_janitor::run)
}
