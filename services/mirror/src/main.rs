//! `mecapy-mirror`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mecapy_service::run("mirror", mecapy_mirror::run)
}
