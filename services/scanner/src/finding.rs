//! What an advisory says of an installed package.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use mecapy_advisories::severity::{Rating, Severity};
use mecapy_advisories::version::Version;
use mecapy_advisories::{Database, Hit, Installed, Scheme, ecosystem};
use mecapy_registry::Digest;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::image::Contents;
use crate::package::{Ecosystem, OsRelease, Package, Subject, purl};

/// Upgrades that are followed from one fix to the next, where a fix has a CRITICAL of its own.
const UPGRADE_STEPS: usize = 16;

/// One flaw of one version of a package, under one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The CVE where there is one.
    pub id: String,
    /// Other names of the flaw, and notices about it, sorted.
    pub aliases: Vec<String>,
    pub ecosystem: Ecosystem,
    /// Of a distribution: the source package, which its advisories are about.
    pub package: String,
    pub installed: String,
    /// What is installed of it: a source package can be several.
    pub purls: Vec<String>,
    /// The lowest version above the installed one without the flaw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
    /// What to move to: of a CRITICAL, the lowest version known that no CRITICAL advisory is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade_to: Option<String>,
    #[serde(flatten)]
    pub rating: Rating,
    pub summary: String,
    /// The first time that somebody published it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<DateTime<Utc>>,
    /// Wherever the image has this version of the package, sorted.
    pub locations: Vec<Location>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    pub path: String,
    pub layer: Digest,
}

/// What is known of an image's packages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// The worst first.
    pub findings: Vec<Finding>,
    /// Ecosystems of packages in the image that the database knows nothing of: nothing found means nothing there.
    pub unknown_ecosystems: Vec<String>,
}

/// Asks the database about every package.
pub fn find(database: &Database, contents: &Contents) -> Result<Found, Error> {
    let os = contents.os.as_ref();
    let mut found = Found::default();
    let mut unknown = BTreeSet::new();
    let mut subjects: BTreeMap<Subject<'_>, Vec<&Package>> = BTreeMap::new();
    for package in &contents.packages {
        match package.subject(os) {
            Some(subject) if database.info().ecosystems.contains_key(&subject.ecosystem) => {
                subjects.entry(subject).or_default().push(package);
            }
            Some(subject) => {
                unknown.insert(subject.ecosystem);
            }
            None => {
                unknown.insert(os.map_or_else(
                    || "a distribution without os-release".to_owned(),
                    |os| format!("{} {}", os.id, os.version_id).trim().to_owned(),
                ));
            }
        }
    }
    for (subject, packages) in subjects {
        of_subject(database, &subject, &packages, os, &mut found.findings)?;
    }
    found.unknown_ecosystems = unknown.into_iter().collect();
    found.findings.sort_by(|a, b| {
        let key = |finding: &Finding| {
            (finding.package.clone(), finding.installed.clone(), finding.id.clone())
        };
        b.rating.severity.cmp(&a.rating.severity).then_with(|| key(a).cmp(&key(b)))
    });
    Ok(found)
}

fn of_subject(
    database: &Database,
    subject: &Subject<'_>,
    packages: &[&Package],
    os: Option<&OsRelease>,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let Some(scheme) = ecosystem::scheme(&subject.ecosystem) else { return Ok(()) };
    let installed = Installed::new(scheme, subject.version);
    let flaws = by_flaw(scheme, database.hits(&subject.ecosystem, subject.name, &installed)?);
    if flaws.is_empty() {
        return Ok(());
    }
    let Some(ecosystem) = packages.first().map(|package| package.ecosystem) else { return Ok(()) };
    let mut locations: Vec<Location> = packages
        .iter()
        .map(|package| Location { path: package.path.clone(), layer: package.layer })
        .collect();
    locations.sort();
    locations.dedup();
    let mut purls: Vec<String> = packages.iter().map(|package| package.purl(os)).collect();
    purls.sort();
    purls.dedup();
    let safe = safe_upgrade(database, subject, scheme, &flaws)?;
    findings.extend(flaws.into_iter().map(|flaw| Finding {
        upgrade_to: match flaw.rating.severity {
            Severity::Critical => safe.clone(),
            _ => flaw.fixed.clone(),
        },
        id: flaw.id,
        aliases: flaw.aliases,
        ecosystem,
        package: subject.name.to_owned(),
        installed: subject.version.to_owned(),
        purls: purls.clone(),
        fixed: flaw.fixed,
        rating: flaw.rating,
        summary: flaw.summary,
        published: flaw.published,
        locations: locations.clone(),
    }));
    Ok(())
}

impl Finding {
    /// Every name of the flaw.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.id).chain(&self.aliases).map(String::as_str)
    }

    /// The package that the advisory is about, whatever of it is installed.
    pub fn source_purl(&self) -> String {
        purl(self.ecosystem, &self.package, &self.installed, None, None)
    }
}

/// One flaw, from all the advisories about it.
#[derive(Debug, Default)]
struct Flaw {
    id: String,
    aliases: Vec<String>,
    rating: Rating,
    fixed: Option<String>,
    summary: String,
    published: Option<DateTime<Utc>>,
}

/// Advisories that share a name are about one flaw, also when a third one connects them.
fn by_flaw(scheme: Scheme, hits: Vec<Hit>) -> Vec<Flaw> {
    let mut groups: Vec<Vec<Hit>> = Vec::new();
    for hit in hits {
        let shares = |group: &Vec<Hit>| {
            group.iter().any(|other| {
                other.advisory.names().any(|name| hit.advisory.names().any(|own| own == name))
            })
        };
        let (same, mut apart): (Vec<_>, Vec<_>) = groups.into_iter().partition(shares);
        let mut group: Vec<Hit> = same.into_iter().flatten().collect();
        group.push(hit);
        apart.push(group);
        groups = apart;
    }
    groups.into_iter().map(|group| flaw(scheme, group)).collect()
}

fn flaw(scheme: Scheme, group: Vec<Hit>) -> Flaw {
    let mut names: Vec<&str> = group.iter().flat_map(|hit| hit.advisory.names()).collect();
    names.sort_by_key(|name| (name_rank(name), *name));
    names.dedup();
    let mut names = names.into_iter().map(str::to_owned);
    let id = names.next().unwrap_or_default();
    let notices = group.iter().filter_map(|hit| hit.advisory.notice.as_deref());
    let mut aliases: Vec<String> = names.chain(notices.map(str::to_owned)).collect();
    aliases.sort();
    aliases.dedup();

    let mut flaw = Flaw { id, aliases, ..Flaw::default() };
    for hit in group {
        flaw.rating = flaw.rating.worse(hit.rating);
        // Where they differ on the fix, the later one is a fix for both.
        flaw.fixed = flaw
            .fixed
            .into_iter()
            .chain(hit.fixed)
            .max_by_key(|version| Installed::new(scheme, version).version().cloned());
        if flaw.summary.is_empty() {
            flaw.summary = hit.advisory.summary.to_string();
        }
        flaw.published = flaw.published.into_iter().chain(hit.advisory.published).min();
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
fn safe_upgrade(
    database: &Database,
    subject: &Subject<'_>,
    scheme: Scheme,
    flaws: &[Flaw],
) -> Result<Option<String>, Error> {
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
                Some((Installed::new(scheme, &fixed).version()?.clone(), fixed))
            })
            .collect();
        Some(fixes.and_then(|fixes| fixes.into_iter().max()))
    };
    let Some(Some(mut candidate)) = next(flaws) else { return Ok(None) };
    for _ in 0..UPGRADE_STEPS {
        let installed = Installed::new(scheme, &candidate.1);
        let hits = database.hits(&subject.ecosystem, subject.name, &installed)?;
        match next(&by_flaw(scheme, hits)) {
            None => return Ok(Some(candidate.1)),
            Some(Some(later)) if later.0 > candidate.0 => candidate = later,
            Some(_) => return Ok(None),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
