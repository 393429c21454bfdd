//! The whole system, from outside, on real servers.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod alerts;
mod base;
mod chain;
mod cleanup;
mod console;
mod dashboards;
mod events;
mod faults;
mod mirror;
mod operations;
mod trace;
mod webhooks;

use std::time::Duration;

/// Far more than any step takes on a busy machine, where a message that a dead process held comes back after 30 s: what
/// passes it hangs.
const PATIENCE: Duration = Duration::from_secs(600);

const DOUBLE: &str = r#"
import json
with open("/inputs.json") as file:
    inputs = json.load(file)
print("doubling", inputs)
with open("/output.json", "w") as file:
    json.dump({"doubled": inputs["n"] * 2}, file)
"#;
