//! `mecapy-builder`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mecapy_service::run("builder", mecapy_builder::run)
}
