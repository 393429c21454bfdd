//! A real export of osv.dev for PyPI, where there is one beside the checkout. It is not part of the repository.

use std::path::PathBuf;

use chrono::{DateTime, Duration, TimeZone as _, Utc};
use mecapy_registry::Digest;
use mecapy_scanner::Error;
use mecapy_scanner::advisory::Database;
use mecapy_scanner::finding::{Finding, find};
use mecapy_scanner::package::{Ecosystem, Package};
use mecapy_scanner::severity::Severity;

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

fn findings(database: &Database, name: &str, version: &str) -> Vec<Finding> {
    let package = Package {
        ecosystem: Ecosystem::Pypi,
        name: name.to_owned(),
        version: version.to_owned(),
        source: None,
        architecture: None,
        path: "x".to_owned(),
        layer: Digest::of(b"layer"),
    };
    find(database, &[package])
}

#[test]
fn every_record_of_the_export_is_read() {
    let Some(path) = export() else { return };
    let database = Database::load(&path, then()).unwrap();
    let info = database.info();
    assert_eq!((info.records, info.withdrawn), (7_080, 269));
    assert_eq!(info.from_the_future, 2);
    assert_eq!(info.advisories + info.withdrawn + info.elsewhere, info.records, "{info:?}");
    assert!(!info.partial);
    assert!(info.newest.unwrap() < then());
}

#[test]
fn a_folder_is_read_as_its_files_are() {
    let Some(path) = export() else { return };
    let folder = path.parent().unwrap().parent().unwrap();
    let of_folder = Database::load(folder, then()).unwrap();
    assert_eq!(of_folder.info().version, Database::load(&path, then()).unwrap().info().version);
}

#[test]
fn the_export_is_too_old_a_week_after_its_newest_record() {
    let Some(path) = export() else { return };
    let database = Database::load(&path, then()).unwrap();
    database.check_age(then(), Duration::days(7)).unwrap();
    let error = database.check_age(then() + Duration::days(8), Duration::days(7)).unwrap_err();
    assert!(matches!(error, Error::DatabaseTooOld { .. }), "{error}");
}

#[test]
fn severities_of_all_records_come_out_as_they_were_counted() {
    let Some(path) = export() else { return };
    let database = Database::load(&path, then()).unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for advisory in database.advisories() {
        *counts.entry(advisory.rating.severity).or_insert(0_u32) += 1;
    }
    // Base scores, of CVSS v4 before v3. Every vector is read; nobody rates malware (38), nor 2,692 others.
    let counted = Severity::ALL.map(|severity| counts[&severity]);
    assert_eq!(counted, [559 + 38, 1_590, 1_775, 146, 2_692]);
}

#[test]
fn well_known_vulnerable_versions_are_found_and_fixed_ones_are_not() {
    let Some(path) = export() else { return };
    let database = Database::load(&path, then()).unwrap();
    let has = |name: &str, version: &str, id: &str| {
        findings(&database, name, version).iter().any(|finding| finding.id == id)
    };
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
    let database = Database::load(&path, then()).unwrap();
    let found = findings(&database, "pyyaml", "5.3.1");
    let finding = found.iter().find(|finding| finding.id == "CVE-2020-14343").unwrap();
    assert_eq!(finding.rating.severity, Severity::Critical);
    assert_eq!(finding.upgrade_to.as_deref(), Some("5.4"));
}

#[test]
fn duplicates_of_one_flaw_are_one_finding() {
    let Some(path) = export() else { return };
    let database = Database::load(&path, then()).unwrap();
    for advisory in database.advisories() {
        assert!(!advisory.id.is_empty());
    }
    for (name, version) in [("mistral", "20.0.0"), ("django", "2.2.0"), ("pillow", "8.0.0")] {
        let findings = findings(&database, name, version);
        let mut names: Vec<&str> = findings
            .iter()
            .flat_map(|finding| std::iter::once(&finding.id).chain(&finding.aliases))
            .map(String::as_str)
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{name}: a name is in two findings");
        let mut sorted = findings.clone();
        sorted.sort_by_key(|finding| std::cmp::Reverse(finding.rating.severity));
        assert_eq!(
            findings.iter().map(|finding| finding.rating.severity).collect::<Vec<_>>(),
            sorted.iter().map(|finding| finding.rating.severity).collect::<Vec<_>>()
        );
    }
}

#[test]
fn the_starter_set_agrees_with_the_export() {
    let Some(path) = export() else { return };
    let database = Database::load(&path, then()).unwrap();
    let starter = Database::starter().unwrap();
    let known: std::collections::HashSet<String> = database
        .advisories()
        .iter()
        .flat_map(|advisory| advisory.names().map(str::to_owned))
        .collect();
    for advisory in starter.advisories() {
        for name in advisory.names() {
            assert!(known.contains(name), "{name} is not in the export");
        }
    }
}

#[test]
fn a_zip_with_a_record_that_cannot_be_read_is_refused_whole() {
    let file = tempfile::Builder::new().suffix(".zip").tempfile().unwrap();
    let mut zip = zip::ZipWriter::new(file.reopen().unwrap());
    let options = zip::write::SimpleFileOptions::default();
    let good = r#"{"id": "A", "modified": "2025-10-01T00:00:00Z",
        "affected": [{"package": {"ecosystem": "PyPI", "name": "x"}, "versions": ["1"]}]}"#;
    for (name, text) in
        [("A.json", good), ("README.txt", "not a record"), ("B.json", "{\"id\": 7}")]
    {
        zip.start_file(name, options).unwrap();
        std::io::Write::write_all(&mut zip, text.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
    let error = Database::load(file.path(), then()).unwrap_err();
    assert!(matches!(&error, Error::DatabaseRecord { name, .. } if name == "B.json"), "{error}");
    assert!(matches!(
        Database::load("/nowhere/all.zip".as_ref(), then()),
        Err(Error::DatabaseFile { .. })
    ));
}
