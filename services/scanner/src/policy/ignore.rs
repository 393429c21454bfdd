//! The list of findings that somebody has looked at and that don't count for now.
//!
//! ```yaml
//! ignore:
//!   - id: CVE-2024-1234
//!     package: openssl          # without it: wherever it is found
//!     reason: the function never opens a socket
//!     expires: 2026-12-31       # from this day on it counts again
//! ```

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::finding::Finding;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ignore {
    /// Any name of the flaw.
    pub id: String,
    pub package: Option<String>,
    pub reason: String,
    pub expires: NaiveDate,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    ignore: Vec<Ignore>,
}

/// What can't be read is told with the line. Nothing is passed over.
pub fn parse(yaml: &str) -> Result<Vec<Ignore>, String> {
    let List { ignore } = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    for entry in &ignore {
        if entry.id.trim().is_empty() || entry.reason.trim().is_empty() {
            return Err(format!("{:?}: an entry needs an id and a reason", entry.id));
        }
    }
    Ok(ignore)
}

impl Ignore {
    pub fn is_in_force(&self, now: DateTime<Utc>) -> bool {
        now.date_naive() < self.expires
    }

    pub fn holds(&self, finding: &Finding, now: DateTime<Utc>) -> bool {
        self.is_in_force(now)
            && finding.names().any(|name| name == self.id)
            && self.package.as_ref().is_none_or(|package| *package == finding.package)
    }
}
