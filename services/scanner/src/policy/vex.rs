//! OpenVEX: what the makers of a package say of whether a flaw matters in it.
//! <https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md>
//!
//! Only statements about packages (by purl) are heard, with the version or for all versions. One about an image and
//! packages in it is passed over: it would be for that image alone.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::finding::Finding;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statement {
    pub timestamp: DateTime<Utc>,
    /// All names of the flaw.
    pub names: Vec<String>,
    pub products: Vec<Purl>,
    pub status: Status,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    NotAffected,
    Affected,
    Fixed,
    UnderInvestigation,
}

#[derive(Debug, Deserialize)]
struct Document {
    #[serde(rename = "@context")]
    context: String,
    timestamp: DateTime<Utc>,
    statements: Vec<Raw>,
}

#[derive(Debug, Deserialize)]
struct Raw {
    vulnerability: Vulnerability,
    timestamp: Option<DateTime<Utc>>,
    #[serde(default)]
    products: Vec<Product>,
    status: Status,
    justification: Option<String>,
    impact_statement: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Vulnerability {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Product {
    #[serde(rename = "@id")]
    id: Option<String>,
    #[serde(default)]
    identifiers: Identifiers,
    #[serde(default)]
    subcomponents: Vec<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Identifiers {
    purl: Option<String>,
}

pub fn parse(json: &str) -> Result<Vec<Statement>, String> {
    let document: Document = serde_json::from_str(json).map_err(|error| error.to_string())?;
    if !document.context.starts_with("https://openvex.dev/ns") {
        return Err(format!("{:?} is not the context of OpenVEX", document.context));
    }
    document.statements.into_iter().map(|raw| statement(raw, document.timestamp)).collect()
}

fn statement(raw: Raw, of_document: DateTime<Utc>) -> Result<Statement, String> {
    let name = &raw.vulnerability.name;
    let why = raw.justification.or(raw.impact_statement).unwrap_or_default();
    if raw.status == Status::NotAffected && why.trim().is_empty() {
        return Err(format!("{name}: not_affected needs a justification or an impact_statement"));
    }
    let packages = raw.products.into_iter().filter(|product| product.subcomponents.is_empty());
    let products = packages
        .filter_map(|product| Purl::parse(&product.identifiers.purl.or(product.id)?))
        .collect();
    Ok(Statement {
        timestamp: raw.timestamp.unwrap_or(of_document),
        names: std::iter::once(name.clone()).chain(raw.vulnerability.aliases).collect(),
        products,
        status: raw.status,
        why,
    })
}

/// Why the newest statement about the finding takes it away, if it does. `statements` are in the order of their times.
pub fn suppresses(statements: &[Statement], finding: &Finding) -> Option<String> {
    let newest = statements.iter().rev().find(|statement| statement.is_about(finding))?;
    match newest.status {
        Status::NotAffected => Some(format!("VEX: not affected ({})", newest.why)),
        Status::Fixed => Some("VEX: fixed".to_owned()),
        Status::Affected | Status::UnderInvestigation => None,
    }
}

impl Statement {
    /// Whether it is about the source package, or about everything that is installed of it.
    fn is_about(&self, finding: &Finding) -> bool {
        let names = |purl: &str| {
            Purl::parse(purl).is_some_and(|purl| self.products.iter().any(|of| of.covers(&purl)))
        };
        finding.names().any(|name| self.names.iter().any(|own| own == name))
            && (names(&finding.source_purl())
                || (!finding.purls.is_empty() && finding.purls.iter().all(|purl| names(purl))))
    }
}

/// A package URL, less its qualifiers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Purl {
    /// Kind, namespace and name.
    package: String,
    version: Option<String>,
}

impl Purl {
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("pkg:")?;
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let (package, version) = match rest.rsplit_once('@') {
            Some((package, version)) => (package, Some(decode(version))),
            None => (rest, None),
        };
        package.contains('/').then(|| Self { package: decode(package), version })
    }

    /// Whether what it says holds for the other: the same package, in the same version or in any.
    fn covers(&self, other: &Self) -> bool {
        self.package == other.package && (self.version.is_none() || self.version == other.version)
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
