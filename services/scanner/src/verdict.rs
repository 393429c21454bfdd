//! The verdict: a pure function of what was found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::severity::Severity;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Passed,
    Rejected,
}

/// Findings by severity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub critical: u32,
    pub high: u32,
    pub medium: u32,
    pub low: u32,
    pub unknown: u32,
}

/// The verdict, and what to tell the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub verdict: Verdict,
    pub counts: Counts,
    /// Why it was rejected and what to do: one line a package. Empty when it passed.
    pub reasons: Vec<String>,
    /// One line a HIGH, then one a finding that nobody rated: `numpy 1.24.0 has HIGH CVE-…`.
    pub warnings: Vec<String>,
}

/// No CRITICAL: passed. One or more: rejected. HIGH and unrated findings are warned of.
pub fn decide(findings: &[Finding]) -> Decision {
    let mut counts = Counts::default();
    for finding in findings {
        *counts.of_mut(finding.rating.severity) += 1;
    }
    let verdict = if counts.critical == 0 { Verdict::Passed } else { Verdict::Rejected };
    let warned = [Severity::High, Severity::Unknown].into_iter();
    let warnings = warned.flat_map(|severity| of_severity(findings, severity).map(line)).collect();
    Decision { verdict, counts, reasons: reasons(findings), warnings }
}

fn of_severity(findings: &[Finding], severity: Severity) -> impl Iterator<Item = &Finding> {
    findings.iter().filter(move |finding| finding.rating.severity == severity)
}

fn line(finding: &Finding) -> String {
    format!(
        "{} {} has {} {}",
        finding.package, finding.installed, finding.rating.severity, finding.id
    )
}

fn reasons(findings: &[Finding]) -> Vec<String> {
    let mut by_package: BTreeMap<(&str, &str), Vec<&Finding>> = BTreeMap::new();
    for finding in of_severity(findings, Severity::Critical) {
        by_package.entry((&finding.package, &finding.installed)).or_default().push(finding);
    }
    let reason = |((package, installed), findings): ((&str, &str), Vec<&Finding>)| {
        let ids: Vec<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
        let advice = match findings.first().and_then(|finding| finding.upgrade_to.as_deref()) {
            Some(version) => format!("upgrade to {version} or later"),
            None => "no fixed version is known: do without it".to_owned(),
        };
        format!("{package} {installed} has CRITICAL {}: {advice}", ids.join(", "))
    };
    by_package.into_iter().map(reason).collect()
}

impl Counts {
    pub fn of(&self, severity: Severity) -> u32 {
        match severity {
            Severity::Critical => self.critical,
            Severity::High => self.high,
            Severity::Medium => self.medium,
            Severity::Low => self.low,
            Severity::Unknown => self.unknown,
        }
    }

    fn of_mut(&mut self, severity: Severity) -> &mut u32 {
        match severity {
            Severity::Critical => &mut self.critical,
            Severity::High => &mut self.high,
            Severity::Medium => &mut self.medium,
            Severity::Low => &mut self.low,
            Severity::Unknown => &mut self.unknown,
        }
    }
}

#[cfg(test)]
mod tests;
