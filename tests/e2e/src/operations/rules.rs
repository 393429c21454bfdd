//! The rules of Prometheus, and the cases that try them out.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{files, root};

#[derive(Debug, Default)]
pub struct Rules {
    pub alerts: Vec<Alert>,
    pub recordings: Vec<Recording>,
}

#[derive(Debug, Clone)]
pub struct Alert {
    pub name: String,
    pub expr: String,
    pub severity: String,
    pub summary: String,
    pub description: String,
    /// Its page, from the workspace's root.
    pub runbook: String,
}

#[derive(Debug, Clone)]
pub struct Recording {
    pub name: String,
    pub expr: String,
}

/// A time at which an alert is tried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub alert: String,
    pub fires: bool,
}

impl Rules {
    /// All expressions, with the rule's name.
    pub fn queries(&self) -> impl Iterator<Item = (&str, &str)> {
        let alerts = self.alerts.iter().map(|alert| (alert.name.as_str(), alert.expr.as_str()));
        let recordings =
            self.recordings.iter().map(|rule| (rule.name.as_str(), rule.expr.as_str()));
        alerts.chain(recordings)
    }
}

#[derive(Debug, Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    alert: Option<String>,
    record: Option<String>,
    expr: String,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Debug, Default, Deserialize)]
struct Labels {
    #[serde(default)]
    severity: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    summary: String,
    description: String,
    runbook: String,
}

pub fn rules() -> Result<Rules> {
    let mut rules = Rules::default();
    for file in read::<File>("deploy/compose/prometheus/rules")? {
        for rule in file.groups.into_iter().flat_map(|group| group.rules) {
            let Annotations { summary, description, runbook } = rule.annotations;
            let (expr, severity) = (rule.expr, rule.labels.severity);
            if let Some(name) = rule.alert {
                let alert = Alert { name, expr, severity, summary, description, runbook };
                rules.alerts.push(alert);
            } else {
                let name = rule.record.context("a rule without a name")?;
                rules.recordings.push(Recording { name, expr });
            }
        }
    }
    Ok(rules)
}

#[derive(Debug, Deserialize)]
struct TestFile {
    tests: Vec<Test>,
}

#[derive(Debug, Deserialize)]
struct Test {
    #[serde(default)]
    alert_rule_test: Vec<AlertTest>,
}

#[derive(Debug, Deserialize)]
struct AlertTest {
    alertname: String,
    #[serde(default)]
    exp_alerts: Vec<serde_json::Value>,
}

/// Every case of the rules' tests.
pub fn cases() -> Result<Vec<Case>> {
    let files = read::<TestFile>("deploy/compose/prometheus/rules_test")?;
    let tests = files.into_iter().flat_map(|file| file.tests).flat_map(|test| test.alert_rule_test);
    Ok(tests
        .map(|test| Case { alert: test.alertname, fires: !test.exp_alerts.is_empty() })
        .collect())
}

fn read<T: DeserializeOwned>(folder: &str) -> Result<Vec<T>> {
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path)?;
        serde_saphyr::from_str(&text).with_context(|| path.display().to_string())
    };
    files(&root().join(folder), "yml")?.iter().map(|path| read(path)).collect()
}
