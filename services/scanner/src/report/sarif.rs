//! SARIF 2.1.0, with what code scanning reads of it: a rule a flaw, a result for each place of the package.
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/>

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::engine::Scan;
use crate::finding::Finding;
use crate::severity::Severity;

/// `category` tells analyses of one repository apart: a newer one of it takes the place of the older.
pub fn document(scan: &Scan, category: &str) -> Value {
    // The worst finding of each rule speaks for it: they come worst first.
    let mut rules: BTreeMap<&str, &Finding> = BTreeMap::new();
    for finding in &scan.findings {
        rules.entry(&finding.id).or_insert(finding);
    }
    let index: BTreeMap<&str, usize> = rules.keys().enumerate().map(|(at, id)| (*id, at)).collect();
    let rules: Vec<Value> = rules.values().map(|finding| rule(finding)).collect();
    let results: Vec<Value> = scan
        .findings
        .iter()
        .map(|finding| result(finding, index.get(finding.id.as_str()).copied()))
        .collect();
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "mecapy-scanner",
                "version": scan.engine.version,
                "semanticVersion": scan.engine.version,
                "rules": rules,
                "properties": {
                    "engine": scan.engine.name,
                    "databaseVersion": scan.database.version,
                    "databasePartial": scan.database.partial,
                },
            }},
            "automationDetails": { "id": category },
            "artifacts": [],
            "columnKind": "utf16CodeUnits",
            "properties": { "imageName": scan.image, "imageDigest": scan.digest.to_string() },
            "results": results,
        }],
    })
}

fn rule(finding: &Finding) -> Value {
    let text = if finding.summary.is_empty() { &finding.id } else { &finding.summary };
    json!({
        "id": finding.id,
        "name": "VulnerablePackage",
        "shortDescription": { "text": format!("{} in {}", finding.id, finding.package) },
        "fullDescription": { "text": text },
        "helpUri": format!("https://osv.dev/vulnerability/{}", finding.id),
        "defaultConfiguration": { "level": level(finding.rating.severity) },
        "properties": {
            "security-severity": format!("{:.1}", score(finding)),
            "precision": "very-high",
            "tags": ["security", "vulnerability", finding.rating.severity.as_str()],
        },
    })
}

fn result(finding: &Finding, rule: Option<usize>) -> Value {
    let advice = match &finding.upgrade_to {
        Some(version) => format!("Upgrade to {version} or later."),
        None => "No fixed version is known.".to_owned(),
    };
    let message = format!(
        "{} {} has {} {}. {advice}",
        finding.package, finding.installed, finding.rating.severity, finding.id
    );
    let locations: Vec<Value> = finding
        .locations
        .iter()
        .map(|location| {
            json!({
                "physicalLocation": {
                    "artifactLocation": { "uri": uri(&location.path), "uriBaseId": "ROOTPATH" },
                    "region": { "startLine": 1 },
                },
                "message": { "text": format!("{} {} in layer {}", finding.package, finding.installed, location.layer) },
            })
        })
        .collect();
    json!({
        "ruleId": finding.id,
        "ruleIndex": rule,
        "level": level(finding.rating.severity),
        "message": { "text": message },
        "locations": locations,
        // The same flaw of the same package stays one alert from image to image.
        "partialFingerprints": { "packageFlaw/v1": format!("{}:{}", finding.package, finding.id) },
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium | Severity::Unknown => "warning",
        Severity::Low => "note",
    }
}

/// Code scanning sorts by this number; where there is no score, one within the range of the severity.
fn score(finding: &Finding) -> f64 {
    finding.rating.score.unwrap_or(match finding.rating.severity {
        Severity::Critical => 9.5,
        Severity::High => 8.0,
        Severity::Medium | Severity::Unknown => 5.5,
        Severity::Low => 2.0,
    })
}

/// A path as a relative URI: what has a meaning in one is escaped.
fn uri(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'/'
            | b'+'
            | b'@' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}
