use std::process::ExitCode;

use mecapy_gateway::Config;

fn main() -> ExitCode {
    mecapy_service::run("gateway", |config: Config, context| mecapy_gateway::run(config, context))
}
