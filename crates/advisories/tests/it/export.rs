//! A real export of osv.dev for PyPI, where there is one beside the checkout. It is not part of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chrono::{DateTime, Duration, TimeZone as _, Utc};
use mecapy_advisories::severity::Severity;
use mecapy_advisories::{Database, Error, Installed, Scheme, import};

fn export() -> Option<PathBuf> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/osv/PyPI/all.zip");
    if !path.is_file() {
        println!("skipped: no export of OSV's PyPI records at {}", path.display());
        return None;
    }
    Some(path)
}

/// A day after its newest record.
fn then() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 7, 24, 0, 0, 0).unwrap()
}

fn imported(path: PathBuf) -> Database {
    import(&[path], vec!["export".to_owned()], then()).unwrap().open().unwrap()
}

fn names(database: &Database, package: &str, version: &str) -> BTreeSet<String> {
    let installed = Installed::new(Scheme::Pep440, version);
    let hits = database.hits("PyPI", package, &installed).unwrap();
    hits.iter().flat_map(|hit| hit.advisory.names().map(str::to_owned)).collect()
}

#[test]
fn every_record_of_the_export_is_read() {
    let Some(path) = export() else { return };
    let database = imported(path);
    let info = database.info();
    assert_eq!((info.records, info.withdrawn, info.repeated), (7_080, 269, 0));
    assert_eq!(info.from_the_future, 2);
    assert_eq!(info.advisories + info.withdrawn + info.elsewhere, info.records, "{info:?}");
    assert!(!info.partial);
    assert!(info.newest.unwrap() < then());
    let of_pypi = &info.ecosystems["PyPI"];
    assert_eq!((of_pypi.advisories, of_pypi.packages), (info.advisories, info.packages));
    assert_eq!(database.packages().unwrap().len(), info.packages);
}

#[test]
fn a_folder_is_read_as_its_files_are() {
    let Some(path) = export() else { return };
    let folder = path.parent().unwrap().parent().unwrap().to_owned();
    assert_eq!(imported(folder).info(), imported(path).info());
}

#[test]
fn the_export_is_too_old_a_week_after_its_newest_record() {
    let Some(path) = export() else { return };
    let info = imported(path).info().clone();
    info.check_age(then(), Duration::days(7)).unwrap();
    let error = info.check_age(then() + Duration::days(8), Duration::days(7)).unwrap_err();
    assert!(matches!(error, Error::DatabaseTooOld { .. }), "{error}");
}

#[test]
fn severities_of_all_advisories_come_out_as_they_were_counted() {
    let Some(path) = export() else { return };
    let database = imported(path);
    let mut worst: BTreeMap<Box<str>, Severity> = BTreeMap::new();
    for (ecosystem, name) in database.packages().unwrap() {
        for entry in database.entries(&ecosystem, &name).unwrap() {
            let severity = worst.entry(entry.advisory.id).or_default();
            *severity = (*severity).max(entry.rating.severity);
        }
    }
    let mut counts = BTreeMap::new();
    worst.values().for_each(|severity| *counts.entry(*severity).or_insert(0_u32) += 1);
    // Base scores, of CVSS v4 before v3; every vector is read. Malware (38) is CRITICAL though nobody rates it, and 27
    // more that nobody rates have the starter set's word.
    let counted = Severity::ALL.map(|severity| counts[&severity]);
    assert_eq!(counted, [559 + 38 + 19, 1_590 + 8, 1_775, 146, 2_692 - 27]);
}

#[test]
fn well_known_vulnerable_versions_are_found_and_fixed_ones_are_not() {
    let Some(path) = export() else { return };
    let database = imported(path);
    let has = |name: &str, version: &str, id: &str| names(&database, name, version).contains(id);
    assert!(has("pyyaml", "5.3.1", "CVE-2020-14343"));
    assert!(!has("pyyaml", "5.4", "CVE-2020-14343"));
    assert!(has("urllib3", "2.0.5", "CVE-2023-43804"));
    assert!(has("urllib3", "1.26.16", "CVE-2023-43804"));
    assert!(!has("urllib3", "1.26.17", "CVE-2023-43804"));
    assert!(has("pycrypto", "2.6.1", "CVE-2013-7459"));
    assert!(has("torch", "2.5.1+cu124", "CVE-2025-32434"));
    // Out of order in its record, and listed beside its ranges.
    assert!(has("wagtail", "2.11.6", "CVE-2021-29434"));
    assert!(!has("wagtail", "2.11.7", "CVE-2021-29434"));
}

#[test]
fn records_that_nobody_rated_take_the_severity_of_the_starter_set() {
    let Some(path) = export() else { return };
    let database = imported(path);
    let installed = Installed::new(Scheme::Pep440, "5.3.1");
    let hits = database.hits("PyPI", "pyyaml", &installed).unwrap();
    let of_flaw =
        hits.iter().filter(|hit| hit.advisory.names().any(|name| name == "CVE-2020-14343"));
    let severities: Vec<Severity> = of_flaw.map(|hit| hit.rating.severity).collect();
    assert!(severities.contains(&Severity::Critical), "{severities:?}");
}

#[test]
fn the_starter_set_agrees_with_the_export() {
    let Some(path) = export() else { return };
    let all = |database: &Database| -> BTreeSet<String> {
        let packages = database.packages().unwrap();
        let entries = packages
            .iter()
            .flat_map(|(ecosystem, name)| database.entries(ecosystem, name).unwrap());
        entries
            .flat_map(|entry| entry.advisory.names().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    };
    let (known, starter) = (all(&imported(path)), all(&Database::starter().unwrap()));
    let missing: Vec<&String> = starter.difference(&known).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
