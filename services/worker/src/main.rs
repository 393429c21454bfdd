//! `mecapy-worker`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mecapy_service::run("worker", mecapy_worker::run)
}
