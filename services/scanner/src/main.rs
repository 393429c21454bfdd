//! `mecapy-scanner`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mecapy_service::run("scanner", mecapy_scanner::run)
}
