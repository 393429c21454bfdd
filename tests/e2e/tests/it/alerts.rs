//! Prometheus's own tool on what Compose gives it: the configuration, the rules, and the cases in which each alert
//! fires and does not.

use std::process::Command;

use mecapy_e2e::operations::root;

/// What promtool says of files below `/etc/prometheus`; it must be content.
fn promtool(arguments: &str) -> String {
    let folder = root().join("deploy/compose/prometheus");
    let output = Command::new("docker")
        .args(["run", "--rm", "--pull=never", "--network", "none", "--volume"])
        .arg(format!("{}:/etc/prometheus:ro", folder.display()))
        .args(["--workdir", "/etc/prometheus", "--entrypoint", "sh", "mecapy/infra/prometheus"])
        .args(["-c", &format!("promtool {arguments}")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("SUCCESS"), "{said}{problem}");
    said
}

#[test]
fn prometheus_takes_its_configuration_and_the_rules() {
    let said = promtool("check config prometheus.yml");
    assert!(said.contains("rules found"), "{said}");
}

#[test]
fn each_alert_comes_when_it_should_and_not_before() {
    promtool("test rules rules_test/*.yml");
}
