//! The alerts of the registry's size, by Prometheus's own tool: `deploy/compose/prometheus/rules_test.yml`.

use std::path::Path;
use std::process::Command;

#[test]
fn the_alerts_come_at_the_limit_and_not_before() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/compose/prometheus");
    let rules = rules.canonicalize().unwrap();
    let output = Command::new("docker")
        .args(["run", "--rm", "--network", "none", "--volume"])
        .arg(format!("{}:/rules:ro", rules.display()))
        .args(["--entrypoint", "promtool", "mecapy/infra/prometheus"])
        .args(["test", "rules", "/rules/rules_test.yml"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("SUCCESS"), "{said}{problem}");
}
