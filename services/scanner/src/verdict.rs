//! The verdict: a pure function of what was found, the policy, and the time.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use mecapy_advisories::severity::Severity;
use mecapy_advisories::{Installed, Scheme};
use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::package::Ecosystem;
use crate::policy::{Action, Policy};

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

/// A finding that doesn't count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppressed {
    pub id: String,
    pub package: String,
    pub installed: String,
    pub severity: Severity,
    pub reason: String,
}

/// The verdict, and what to tell the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub verdict: Verdict,
    /// Of the findings that count.
    pub counts: Counts,
    /// Why it was rejected and what to do: one line a package. Empty when it passed.
    pub reasons: Vec<String>,
    /// One line a finding, the worst first, then those that nobody rated: `numpy 1.24.0 has HIGH CVE-…`.
    pub warnings: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppressed: Vec<Suppressed>,
}

/// By the policy as it comes: no CRITICAL, passed; one or more, rejected. HIGH and unrated findings are warned of.
pub fn decide(findings: &[Finding], policy: &Policy, now: DateTime<Utc>) -> Decision {
    let mut counts = Counts::default();
    let (mut rejecting, mut warned, mut suppressed) = (Vec::new(), Vec::new(), Vec::new());
    for finding in findings {
        if let Some(reason) = policy.suppresses(finding, now) {
            suppressed.push(Suppressed {
                id: finding.id.clone(),
                package: finding.package.clone(),
                installed: finding.installed.clone(),
                severity: finding.rating.severity,
                reason,
            });
            continue;
        }
        *counts.of_mut(finding.rating.severity) += 1;
        let line = line(finding);
        match (policy.action(finding.rating.severity), policy.grace_until(finding, now)) {
            (Action::Reject, None) => rejecting.push(finding),
            (Action::Reject, Some(until)) => {
                let until = until.date_naive();
                warned.push((finding, format!("{line}: rejected from {until} on")));
            }
            (Action::Warn, _) => warned.push((finding, line)),
            (Action::Allow, _) => {}
        }
    }
    // Stable: within a severity they stay in the order of the findings.
    warned.sort_by_key(|(finding, _)| std::cmp::Reverse(finding.rating.severity));
    Decision {
        verdict: if rejecting.is_empty() { Verdict::Passed } else { Verdict::Rejected },
        counts,
        reasons: reasons(&rejecting),
        warnings: warned.into_iter().map(|(_, line)| line).collect(),
        suppressed,
    }
}

impl Decision {
    /// Of the findings that it was made of, those that count.
    pub fn counting<'f>(&self, findings: &'f [Finding]) -> impl Iterator<Item = &'f Finding> {
        findings.iter().filter(|finding| {
            !self.suppressed.iter().any(|suppressed| {
                suppressed.id == finding.id
                    && suppressed.package == finding.package
                    && suppressed.installed == finding.installed
            })
        })
    }
}

fn line(finding: &Finding) -> String {
    format!(
        "{} {} has {} {}",
        finding.package, finding.installed, finding.rating.severity, finding.id
    )
}

fn reasons(rejecting: &[&Finding]) -> Vec<String> {
    let mut by_package: BTreeMap<_, Vec<&Finding>> = BTreeMap::new();
    for finding in rejecting {
        let severity = std::cmp::Reverse(finding.rating.severity);
        by_package
            .entry((finding.package.as_str(), finding.installed.as_str(), severity))
            .or_default()
            .push(finding);
    }
    let reason = |((package, installed, severity), findings): (
        (_, _, std::cmp::Reverse<Severity>),
        Vec<&Finding>,
    )| {
        let ids: Vec<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
        let advice = match upgrade(&findings) {
            Some(version) => format!("upgrade to {version} or later"),
            None => "no fixed version is known: do without it".to_owned(),
        };
        format!("{package} {installed} has {} {}: {advice}", severity.0, ids.join(", "))
    };
    by_package.into_iter().map(reason).collect()
}

/// The version that leaves all of them behind.
fn upgrade<'f>(findings: &[&'f Finding]) -> Option<&'f str> {
    let versions: Option<Vec<&str>> =
        findings.iter().map(|finding| finding.upgrade_to.as_deref()).collect();
    let versions = versions?;
    let scheme = match findings.first()?.ecosystem {
        Ecosystem::Pypi => Scheme::Pep440,
        Ecosystem::Deb => Scheme::Dpkg,
        Ecosystem::Apk => Scheme::Apk,
        // How these compare is for whoever knows them.
        Ecosystem::Other => return versions.first().copied(),
    };
    versions.into_iter().max_by_key(|version| Installed::new(scheme, version).version().cloned())
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
