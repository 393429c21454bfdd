//! What an advisory says of an installed package.

use std::collections::BTreeMap;

use mecapy_registry::Digest;
use pep440_rs::Version;
use serde::{Deserialize, Serialize};

use crate::advisory::{Database, Hit, Installed};
use crate::package::{Ecosystem, Package};
use crate::severity::{Rating, Severity};

/// Upgrades that are followed from one fix to the next, where a fix has a CRITICAL of its own.
const UPGRADE_STEPS: usize = 16;

/// One flaw of one version of a package, under one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The CVE where there is one.
    pub id: String,
    /// Other names of the flaw, sorted.
    pub aliases: Vec<String>,
    pub ecosystem: Ecosystem,
    pub package: String,
    pub installed: String,
    /// The lowest version above the installed one without the flaw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
    /// What to move to: of a CRITICAL, the lowest version known that no CRITICAL advisory is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade_to: Option<String>,
    #[serde(flatten)]
    pub rating: Rating,
    pub summary: String,
    /// Wherever the image has this version of the package, sorted.
    pub locations: Vec<Location>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    pub path: String,
    pub layer: Digest,
}

/// Every finding for the packages, the worst first.
pub fn find(database: &Database, packages: &[Package]) -> Vec<Finding> {
    let mut places: BTreeMap<(&str, &str), Vec<Location>> = BTreeMap::new();
    for package in packages.iter().filter(|package| package.ecosystem == Ecosystem::Pypi) {
        let location = Location { path: package.path.clone(), layer: package.layer };
        places.entry((&package.name, &package.version)).or_default().push(location);
    }
    let mut findings = Vec::new();
    for ((name, version), mut locations) in places {
        locations.sort();
        let installed = Installed::new(version);
        let groups = by_flaw(database.hits(name, &installed).collect());
        let upgrade_to = safe_upgrade(database, name, &groups);
        findings.extend(groups.into_iter().map(|group| {
            let upgrade_to = match group.rating.severity {
                Severity::Critical => upgrade_to.clone(),
                _ => group.fixed.clone(),
            };
            Finding {
                id: group.id,
                aliases: group.aliases,
                ecosystem: Ecosystem::Pypi,
                package: name.to_owned(),
                installed: version.to_owned(),
                fixed: group.fixed,
                upgrade_to,
                rating: group.rating,
                summary: group.summary,
                locations: locations.clone(),
            }
        }));
    }
    findings.sort_by(|a, b| {
        let key = |finding: &Finding| {
            (finding.package.clone(), finding.installed.clone(), finding.id.clone())
        };
        b.rating.severity.cmp(&a.rating.severity).then_with(|| key(a).cmp(&key(b)))
    });
    findings
}

/// One flaw, from all the advisories about it.
#[derive(Debug, Default)]
struct Flaw {
    id: String,
    aliases: Vec<String>,
    rating: Rating,
    fixed: Option<String>,
    summary: String,
}

/// Advisories that share a name are about one flaw, also when a third one connects them.
fn by_flaw(hits: Vec<Hit<'_>>) -> Vec<Flaw> {
    let mut groups: Vec<Vec<Hit<'_>>> = Vec::new();
    for hit in hits {
        let shares = |group: &Vec<Hit<'_>>| {
            group.iter().any(|other| {
                other.advisory.names().any(|name| hit.advisory.names().any(|own| own == name))
            })
        };
        let (same, mut apart): (Vec<_>, Vec<_>) = groups.into_iter().partition(shares);
        let mut group: Vec<Hit<'_>> = same.into_iter().flatten().collect();
        group.push(hit);
        apart.push(group);
        groups = apart;
    }
    groups.into_iter().map(flaw).collect()
}

fn flaw(group: Vec<Hit<'_>>) -> Flaw {
    let mut names: Vec<&str> = group.iter().flat_map(|hit| hit.advisory.names()).collect();
    names.sort_by_key(|name| (name_rank(name), *name));
    names.dedup();
    let mut names = names.into_iter().map(str::to_owned);
    let id = names.next().unwrap_or_default();
    let mut aliases: Vec<String> = names.collect();
    aliases.sort();

    let mut flaw = Flaw { id, aliases, ..Flaw::default() };
    for hit in group {
        flaw.rating = flaw.rating.worse(hit.rating);
        // Where they differ on the fix, the later one is a fix for both.
        flaw.fixed = flaw
            .fixed
            .into_iter()
            .chain(hit.fixed)
            .max_by_key(|version| Installed::new(version).version().cloned());
        if flaw.summary.is_empty() {
            flaw.summary = hit.advisory.summary.to_string();
        }
    }
    flaw
}

/// The name that people know a flaw by.
fn name_rank(name: &str) -> u8 {
    ["CVE-", "GHSA-", "PYSEC-"]
        .iter()
        .position(|prefix| name.starts_with(prefix))
        .map_or(3, |rank| rank as u8)
}

/// The version that leaves every CRITICAL behind: where a fix is itself the subject of another, on from there.
fn safe_upgrade(database: &Database, name: &str, flaws: &[Flaw]) -> Option<String> {
    let next = |flaws: &[Flaw]| -> Option<Option<(Version, String)>> {
        let critical: Vec<&Flaw> =
            flaws.iter().filter(|flaw| flaw.rating.severity == Severity::Critical).collect();
        if critical.is_empty() {
            return None;
        }
        let fixes: Option<Vec<_>> = critical
            .iter()
            .map(|flaw| {
                let fixed = flaw.fixed.clone()?;
                Some((Installed::new(&fixed).version()?.clone(), fixed))
            })
            .collect();
        Some(fixes.and_then(|fixes| fixes.into_iter().max()))
    };
    let mut candidate = next(flaws)??;
    for _ in 0..UPGRADE_STEPS {
        let installed = Installed::new(&candidate.1);
        let flaws = by_flaw(database.hits(name, &installed).collect());
        match next(&flaws) {
            None => return Some(candidate.1),
            Some(Some(later)) if later.0 > candidate.0 => candidate = later,
            Some(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests;
