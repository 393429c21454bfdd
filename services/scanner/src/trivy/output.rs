//! What `trivy image --format json` prints, schema 2.
//! <https://trivy.dev/latest/docs/configuration/reporting/#json>

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use mecapy_advisories::severity::{Rating, Severity};
use mecapy_registry::Digest;
use serde::Deserialize;

use crate::finding::{Finding, Location};
use crate::image::Contents;
use crate::package::{Ecosystem, OsRelease, Package, Source};

const SCHEMA: u32 = 2;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    schema_version: u32,
    artifact_type: String,
    metadata: Metadata,
    #[serde(default)]
    results: Vec<Results>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    #[serde(rename = "OS")]
    os: Option<Os>,
    #[serde(default)]
    repo_digests: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Os {
    family: String,
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Results {
    target: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    packages: Vec<RawPackage>,
    #[serde(default)]
    vulnerabilities: Vec<Vulnerability>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawPackage {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    release: String,
    #[serde(default)]
    epoch: u32,
    arch: Option<String>,
    src_name: Option<String>,
    #[serde(default)]
    src_version: String,
    #[serde(default)]
    src_release: String,
    #[serde(default)]
    src_epoch: u32,
    file_path: Option<String>,
    #[serde(default)]
    layer: RawLayer,
}

#[derive(Debug, Default, Deserialize)]
struct RawLayer {
    #[serde(rename = "Digest")]
    digest: Option<String>,
    #[serde(rename = "DiffID")]
    diff_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    #[serde(default, rename = "VendorIDs")]
    vendor_ids: Vec<String>,
    pkg_name: String,
    pkg_path: Option<String>,
    pkg_identifier: Identifier,
    installed_version: String,
    #[serde(default)]
    fixed_version: String,
    severity: String,
    severity_source: Option<String>,
    #[serde(default)]
    title: String,
    published_date: Option<DateTime<Utc>>,
    #[serde(default, rename = "CVSS")]
    cvss: BTreeMap<String, Cvss>,
    #[serde(default)]
    layer: RawLayer,
}

#[derive(Debug, Deserialize)]
struct Identifier {
    #[serde(rename = "PURL")]
    purl: String,
}

#[derive(Debug, Deserialize)]
struct Cvss {
    #[serde(rename = "V3Score")]
    v3: Option<f64>,
    #[serde(rename = "V40Score")]
    v40: Option<f64>,
}

/// What the image holds and what is wrong with it, the worst first. It must be about this image.
pub fn parse(json: &[u8], digest: Digest) -> Result<(Contents, Vec<Finding>), String> {
    let report: Report = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if report.schema_version != SCHEMA {
        return Err(format!("its schema is {}, not {SCHEMA}", report.schema_version));
    }
    if report.artifact_type != "container_image" {
        return Err(format!("it is about a {}", report.artifact_type));
    }
    let about = format!("@{digest}");
    if !report.metadata.repo_digests.iter().any(|of| of.ends_with(&about)) {
        return Err("it is about another image".to_owned());
    }
    let os = report.metadata.os.map(|os| OsRelease {
        pretty_name: format!("{} {}", os.family, os.name).trim().to_owned(),
        id: os.family,
        version_id: os.name,
    });
    let (mut packages, mut findings) = (Vec::new(), BTreeMap::new());
    for results in report.results {
        let ecosystem = ecosystem(&results.r#type);
        for raw in results.packages {
            packages.push(package(raw, ecosystem, &results.target)?);
        }
        for raw in results.vulnerabilities {
            add(&mut findings, raw, ecosystem, &results.target)?;
        }
    }
    packages.sort();
    packages.dedup();
    let mut findings: Vec<Finding> = findings.into_values().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.rating.severity));
    Ok((Contents { os, packages }, findings))
}

fn ecosystem(kind: &str) -> Ecosystem {
    match kind {
        "debian" | "ubuntu" => Ecosystem::Deb,
        "alpine" => Ecosystem::Apk,
        "python-pkg" => Ecosystem::Pypi,
        _ => Ecosystem::Other,
    }
}

fn package(raw: RawPackage, ecosystem: Ecosystem, target: &str) -> Result<Package, String> {
    let source = raw.src_name.filter(|_| ecosystem != Ecosystem::Pypi).map(|name| Source {
        name,
        version: joined(raw.src_epoch, &raw.src_version, &raw.src_release),
    });
    Ok(Package {
        ecosystem,
        version: joined(raw.epoch, &raw.version, &raw.release),
        name: raw.name,
        source,
        architecture: raw.arch,
        path: raw.file_path.unwrap_or_else(|| target.to_owned()),
        layer: layer(&raw.layer)?,
    })
}

/// As dpkg writes it.
fn joined(epoch: u32, version: &str, release: &str) -> String {
    let epoch = if epoch == 0 { String::new() } else { format!("{epoch}:") };
    let release = if release.is_empty() { String::new() } else { format!("-{release}") };
    format!("{epoch}{version}{release}")
}

fn layer(raw: &RawLayer) -> Result<Digest, String> {
    let text = raw.digest.as_ref().or(raw.diff_id.as_ref()).ok_or("a package has no layer")?;
    text.parse().map_err(|_| format!("{text:?} is no digest of a layer"))
}

/// One flaw of one package in one version is one finding, wherever it is.
fn add(
    findings: &mut BTreeMap<(String, String, String), Finding>,
    raw: Vulnerability,
    ecosystem: Ecosystem,
    target: &str,
) -> Result<(), String> {
    let severity = match raw.severity.as_str() {
        "UNKNOWN" => Severity::Unknown,
        word => Severity::of_word(word).ok_or_else(|| format!("{word:?} is no severity"))?,
    };
    let path = raw.pkg_path.clone().unwrap_or_else(|| target.to_owned());
    let location = Location { path, layer: layer(&raw.layer)? };
    let key = (raw.pkg_name.clone(), raw.installed_version.clone(), raw.id.clone());
    let finding = findings.entry(key).or_insert_with(|| {
        let cvss = raw.severity_source.as_ref().and_then(|source| raw.cvss.get(source));
        // For several branches it names several versions.
        let fixed = raw.fixed_version.split(',').next().map(|version| version.trim().to_owned());
        let fixed = fixed.filter(|version| !version.is_empty());
        Finding {
            id: raw.id,
            aliases: raw.vendor_ids,
            ecosystem,
            package: raw.pkg_name,
            installed: raw.installed_version,
            purls: Vec::new(),
            upgrade_to: fixed.clone(),
            fixed,
            rating: Rating { severity, score: cvss.and_then(|cvss| cvss.v40.or(cvss.v3)) },
            summary: raw.title,
            published: raw.published_date,
            locations: Vec::new(),
        }
    });
    if !finding.purls.contains(&raw.pkg_identifier.purl) {
        finding.purls.push(raw.pkg_identifier.purl);
    }
    if !finding.locations.contains(&location) {
        finding.locations.push(location);
    }
    Ok(())
}
