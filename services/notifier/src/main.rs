//! `mecapy-notifier`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mecapy_service::run("notifier", mecapy_notifier::run)
}
