//! What is kept of a scan and shown to people and programs. Equal scans give equal bytes.

mod cyclonedx;
mod sarif;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::engine::Scan;
use crate::verdict::Decision;

/// The form of the full report. Raised when a field changes its meaning.
pub const SCHEMA: &str = "mecapy.scan/1";

/// Everything that is known of a scan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    pub scanned_at: DateTime<Utc>,
    #[serde(flatten)]
    pub decision: Decision,
    #[serde(flatten)]
    pub scan: Scan,
}

impl Report {
    pub fn new(scan: Scan, mut decision: Decision, scanned_at: DateTime<Utc>) -> Self {
        let unknown = &scan.database.unknown_ecosystems;
        if scan.database.partial && unknown.is_empty() {
            decision.warnings.push(format!(
                "no advisory database is imported: only the {} advisories of the starter set were looked for",
                scan.database.advisories
            ));
        }
        for ecosystem in unknown {
            decision.warnings.push(format!(
                "the advisory database knows nothing of {ecosystem}: its packages were not looked for"
            ));
        }
        Self { schema: SCHEMA.to_owned(), scanned_at, decision, scan }
    }

    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(self)?)
    }

    /// The bill of materials, CycloneDX 1.5: what is in the image, not what is wrong with it, so that it stays
    /// true when advisories change.
    pub fn to_cyclonedx(&self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(&cyclonedx::document(&self.scan, self.scanned_at))?)
    }

    /// The findings, SARIF 2.1.0: for code scanning. Analyses of one category follow one another.
    pub fn to_sarif(&self, category: &str) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(&sarif::document(&self.scan, category))?)
    }
}

#[cfg(test)]
mod tests;
