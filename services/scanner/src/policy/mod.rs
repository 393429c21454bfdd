//! What follows from a finding: the operator's choices, and who has looked at a finding already.

mod ignore;
mod vex;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Duration, Utc};
use mecapy_advisories::severity::Severity;
use mecapy_registry::Digest;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::finding::Finding;

pub use ignore::Ignore;
pub use vex::Statement;

/// `[scanner.policy]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// One finding of these rejects an image.
    pub reject: BTreeSet<Severity>,
    /// Findings of these are told to the user.
    pub warn: BTreeSet<Severity>,
    /// What becomes of findings that nobody rated.
    pub unknown: Action,
    /// Findings for which there is no fixed version don't count.
    pub ignore_unfixed: bool,
    /// An advisory rejects nothing before it has been public for so many days; until then it is warned of.
    pub grace_days: u32,
    /// Findings that don't count: YAML, each with a reason and a day on which it counts again.
    pub ignore_file: Option<PathBuf>,
    /// OpenVEX documents.
    pub vex_files: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Reject,
    Warn,
    Allow,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reject: [Severity::Critical].into(),
            warn: [Severity::High].into(),
            unknown: Action::Warn,
            ignore_unfixed: false,
            grace_days: 0,
            ignore_file: None,
            vex_files: Vec::new(),
        }
    }
}

impl Options {
    pub fn validate(&self) -> Result<(), String> {
        if self.reject.is_empty() {
            return Err("reject: names no severity, so that nothing would be rejected".to_owned());
        }
        if self.reject.contains(&Severity::Unknown) || self.warn.contains(&Severity::Unknown) {
            return Err("reject, warn: what nobody rated is for `unknown`".to_owned());
        }
        if let Some(severity) = self.reject.intersection(&self.warn).next() {
            return Err(format!("{severity} is in reject and in warn"));
        }
        Ok(())
    }
}

/// The policy with all that it refers to. Plain data: what it says depends on the finding and the time alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    pub options: Options,
    pub ignores: Vec<Ignore>,
    /// In the order of their times.
    pub statements: Vec<Statement>,
}

impl Policy {
    /// Reads the files that the options name. A file that can't be read is an error: what it ignores would count, but
    /// what a later line of it takes back would not.
    pub fn load(options: &Options) -> Result<Self, Error> {
        let ignores = match &options.ignore_file {
            Some(path) => ignore::parse(&read(path)?)
                .map_err(|problem| Error::PolicyFile { path: path.clone(), problem })?,
            None => Vec::new(),
        };
        let mut statements = Vec::new();
        for path in &options.vex_files {
            let parsed = vex::parse(&read(path)?)
                .map_err(|problem| Error::PolicyFile { path: path.clone(), problem })?;
            statements.extend(parsed);
        }
        // Stable: of two at one moment the one that was read last counts.
        statements.sort_by_key(|statement| statement.timestamp);
        Ok(Self { options: options.clone(), ignores, statements })
    }

    pub fn action(&self, severity: Severity) -> Action {
        let options = &self.options;
        match severity {
            Severity::Unknown => options.unknown,
            severity if options.reject.contains(&severity) => Action::Reject,
            severity if options.warn.contains(&severity) => Action::Warn,
            _ => Action::Allow,
        }
    }

    /// Why the finding doesn't count; `None`: it does.
    pub fn suppresses(&self, finding: &Finding, now: DateTime<Utc>) -> Option<String> {
        if let Some(ignore) = self.ignores.iter().find(|ignore| ignore.holds(finding, now)) {
            return Some(format!("ignored until {}: {}", ignore.expires, ignore.reason));
        }
        if let Some(reason) = vex::suppresses(&self.statements, finding) {
            return Some(reason);
        }
        (self.options.ignore_unfixed && finding.fixed.is_none())
            .then(|| "no fixed version is known".to_owned())
    }

    /// Until when the advisory is too new to reject; `None`: it isn't, or nobody says when it was published.
    pub fn grace_until(&self, finding: &Finding, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // What says that it is of the future says nothing.
        let published = finding.published.filter(|published| *published <= now)?;
        let until = published + Duration::days(self.options.grace_days.into());
        (now < until).then_some(until)
    }

    /// Equal as long as it says the same: changes when a file does, and when an ignore expires.
    pub fn fingerprint(&self, now: DateTime<Utc>) -> Result<String, Error> {
        let mut effective = self.clone();
        effective.ignores.retain(|ignore| ignore.is_in_force(now));
        Ok(Digest::of(&serde_json::to_vec(&effective)?).hex()[..16].to_owned())
    }
}

/// The policy in force; its files are read again while the scanner runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Policies(Arc<RwLock<Arc<Policy>>>);

impl Policies {
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(policy))))
    }

    pub fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again, and says whether they say something else now. On an error the policy stays as it is.
    pub fn refresh(&self) -> Result<bool, Error> {
        let current = self.current();
        let read = Policy::load(&current.options)?;
        if read == *current {
            return Ok(false);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
        Ok(true)
    }
}

fn read(path: &PathBuf) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|source| Error::PolicyFile { path: path.clone(), problem: source.to_string() })
}

#[cfg(test)]
mod tests;
