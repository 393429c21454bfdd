use chrono::{Duration, TimeZone as _};

use super::*;
use crate::Scheme;
use crate::severity::Severity;

fn record(id: &str, modified: &str, more: &str) -> String {
    format!(
        r#"{{"id": "{id}", "modified": "{modified}"{more},
            "affected": [{{"package": {{"ecosystem": "PyPI", "name": "demo"}}, "versions": ["1.0"]}}]}}"#
    )
}

/// A database read from records at a moment, as if imported.
fn imported(records: &[String], now: DateTime<Utc>) -> Result<Database, Error> {
    let mut builder = Builder::default();
    for record in records {
        builder.add(serde_json::from_str(record).unwrap());
    }
    Database::of_bytes(builder.finish(vec!["test".to_owned()], now, false, None)?)
}

fn pypi(database: &Database, name: &str, version: &str) -> Vec<Hit> {
    let installed = Installed::new(Scheme::Pep440, version);
    database.hits(ecosystem::PYPI, name, &installed).unwrap()
}

fn day(day: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2025, 10, day, 0, 0, 0).unwrap()
}

#[test]
fn the_starter_set_is_read_and_says_that_it_is_partial() {
    let starter = Database::starter().unwrap();
    let info = starter.info();
    assert!(info.partial);
    assert!(info.records >= 30 && info.advisories == info.records, "{info:?}");
    info.check_age(day(1) + Duration::days(36_500), Duration::days(7)).unwrap();
    assert_eq!(info.age(day(1)), None);
    let hits: Vec<_> =
        pypi(&starter, "pyyaml", "5.3.1").iter().map(|hit| hit.advisory.id.to_string()).collect();
    assert_eq!(hits, ["GHSA-8q59-q68h-6hv4"]);
}

#[test]
fn every_advisory_of_the_starter_set_is_critical_or_high_has_a_cve_and_a_summary() {
    let starter = Database::starter().unwrap();
    for (ecosystem, name) in starter.packages().unwrap() {
        for Entry { advisory, rating, .. } in starter.entries(&ecosystem, &name).unwrap() {
            assert!(rating.severity >= Severity::High, "{}", advisory.id);
            assert!(advisory.names().any(|name| name.starts_with("CVE-")), "{}", advisory.id);
            assert!(!advisory.summary.is_empty(), "{}", advisory.id);
        }
    }
}

#[test]
fn age_counts_from_the_newest_record_that_is_not_of_the_future() {
    let records = [
        record("A", "2025-10-01T00:00:00Z", ""),
        record("B", "2025-10-04T00:00:00Z", ""),
        record("C", "2027-01-01T00:00:00Z", ""),
    ];
    let database = imported(&records, day(5)).unwrap();
    assert_eq!(database.info().newest, Some(day(4)));
    assert_eq!(database.info().from_the_future, 1);
    database.info().check_age(day(11), Duration::days(7)).unwrap();
    let error = database.info().check_age(day(12), Duration::days(7)).unwrap_err();
    assert!(matches!(error, Error::DatabaseTooOld { limit_days: 7, .. }), "{error}");
}

#[test]
fn a_database_of_the_future_alone_is_of_no_use() {
    let database = imported(&[record("A", "2027-01-01T00:00:00Z", "")], day(1)).unwrap();
    assert!(database.info().check_age(day(1), Duration::days(7)).is_err());
}

#[test]
fn a_database_without_advisories_is_an_error() {
    let withdrawn = record("A", "2025-10-01T00:00:00Z", r#", "withdrawn": "2025-10-02T00:00:00Z""#);
    assert!(matches!(imported(&[withdrawn], day(3)), Err(Error::DatabaseEmpty { .. })));
}

#[test]
fn other_contents_have_another_version() {
    let one = imported(&[record("A", "2025-10-01T00:00:00Z", "")], day(3)).unwrap();
    let same = imported(&[record("A", "2025-10-01T00:00:00Z", "")], day(4)).unwrap();
    let other = imported(&[record("B", "2025-10-01T00:00:00Z", "")], day(3)).unwrap();
    assert_eq!(one.info().version, same.info().version);
    assert_ne!(one.info().version, other.info().version);
    assert!(one.info().version.starts_with("2025-10-01T00:00:00Z-"), "{}", one.info().version);
}

#[test]
fn what_nobody_rated_is_rated_by_the_other_set_and_the_rest_stays() {
    let critical = |id: &str, alias: &str| {
        let more =
            format!(r#", "aliases": ["{alias}"], "database_specific": {{"severity": "CRITICAL"}}"#);
        record(id, "2025-10-01T00:00:00Z", &more)
    };
    let other =
        imported(&[critical("GHSA-1", "CVE-1"), critical("GHSA-2", "CVE-2")], day(3)).unwrap();
    let mut builder = Builder::default();
    for record in [
        record("PYSEC-1", "2025-10-01T00:00:00Z", r#", "aliases": ["CVE-1"]"#),
        record(
            "PYSEC-2",
            "2025-10-01T00:00:00Z",
            r#", "aliases": ["CVE-2"], "database_specific": {"severity": "LOW"}"#,
        ),
        record("PYSEC-3", "2025-10-01T00:00:00Z", r#", "aliases": ["CVE-3"]"#),
    ] {
        builder.add(serde_json::from_str(&record).unwrap());
    }
    let bytes = builder.finish(Vec::new(), day(3), false, Some(&other)).unwrap();
    let database = Database::of_bytes(bytes).unwrap();
    let severities: Vec<Severity> =
        pypi(&database, "demo", "1.0").iter().map(|hit| hit.rating.severity).collect();
    assert_eq!(severities, [Severity::Critical, Severity::Low, Severity::Unknown]);
}

#[test]
fn fields_that_are_null_missing_or_new_are_no_error() {
    let record = r#"{"id": "A", "modified": "2025-10-01T00:00:00Z", "aliases": null, "severity": null,
        "schema_version": "9.9.9", "new": {"x": [1]}, "database_specific": null, "upstream": null,
        "affected": [
            {"versions": ["1"]},
            {"package": {"ecosystem": "PyPI", "name": "Demo_X", "purl": "pkg:pypi/demo-x"}, "ranges": null,
             "versions": ["1.0"], "ecosystem_specific": {"severity": "high"}},
            {"package": {"ecosystem": "npm", "name": "demo"}, "versions": ["1.0"]}
        ]}"#;
    let database = imported(&[record.to_owned()], day(3)).unwrap();
    assert_eq!(database.info().packages, 1);
    let hits = pypi(&database, "demo-x", "1.0");
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].rating.severity, Severity::High);
}

#[test]
fn the_order_of_the_records_changes_no_byte_and_of_two_the_newer_counts() {
    let old = record("A", "2025-10-01T00:00:00Z", r#", "summary": "old""#);
    let new = record("A", "2025-10-02T00:00:00Z", r#", "summary": "new""#);
    let other = record("B", "2025-10-01T00:00:00Z", "");
    let bytes = |records: &[&String]| {
        let mut builder = Builder::default();
        records.iter().for_each(|record| builder.add(serde_json::from_str(record).unwrap()));
        builder.finish(Vec::new(), day(3), false, None).unwrap()
    };
    let one = bytes(&[&old, &new, &other]);
    assert_eq!(one, bytes(&[&other, &new, &old]));
    let database = Database::of_bytes(one).unwrap();
    assert_eq!(&*pypi(&database, "demo", "1.0")[0].advisory.summary, "new");
    assert_eq!((database.info().records, database.info().repeated), (3, 1));
}

#[test]
fn the_age_is_that_of_the_family_that_waited_longest() {
    let of = |id: &str, ecosystem: &str, modified: &str| {
        record(id, modified, "").replace("PyPI", ecosystem)
    };
    let database = imported(
        &[
            of("A", "PyPI", "2025-10-10T00:00:00Z"),
            of("B", "Debian:12", "2025-10-02T00:00:00Z"),
            of("C", "Debian:13", "2025-10-06T00:00:00Z"),
        ],
        day(10),
    )
    .unwrap();
    let info = database.info();
    assert_eq!(info.newest, Some(day(10)));
    // Debian 12 is quiet; Debian is not.
    assert_eq!(info.oldest(), Some(("Debian", day(6))));
    assert_eq!(info.age(day(10)), Some(Duration::days(4)));
    info.check_age(day(13), Duration::days(7)).unwrap();
    let error = info.check_age(day(14), Duration::days(7)).unwrap_err();
    assert!(
        matches!(&error, Error::DatabaseTooOld { family, .. } if family == "Debian"),
        "{error}"
    );
}

#[test]
fn a_distributions_record_has_the_upstream_flaws_names_and_its_urgency() {
    let json = r#"[
      {"id": "DEBIAN-CVE-2024-1", "modified": "2025-10-01T00:00:00Z", "published": "2025-09-01T00:00:00Z",
       "upstream": ["CVE-2024-1"], "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
       "affected": [{"package": {"ecosystem": "Debian:12", "name": "openssl"}, "ecosystem_specific": {"urgency": "low"},
         "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.0.11-1~deb12u2"}]}]},
        {"package": {"ecosystem": "Debian:13", "name": "openssl"}, "ecosystem_specific": {"urgency": "not yet assigned"},
         "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]},
      {"id": "DSA-1-1", "modified": "2025-10-01T00:00:00Z", "upstream": ["CVE-2024-1", "CVE-2024-2"],
       "affected": [{"package": {"ecosystem": "Debian:12", "name": "openssl"},
         "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.0.11-1~deb12u2"}]}]}]}
    ]"#;
    let database = Database::of_records(json, day(3)).unwrap();
    let hits = |ecosystem: &str, version: &str| {
        let installed = Installed::new(Scheme::Dpkg, version);
        database.hits(ecosystem, "openssl", &installed).unwrap()
    };
    let found = hits("Debian:12", "3.0.11-1~deb12u1");
    let names: Vec<(&str, Option<&str>)> =
        found.iter().map(|hit| (&*hit.advisory.id, hit.advisory.notice.as_deref())).collect();
    assert_eq!(
        names,
        [
            ("DEBIAN-CVE-2024-1", None),
            ("CVE-2024-1", Some("DSA-1-1")),
            ("CVE-2024-2", Some("DSA-1-1"))
        ]
    );
    assert_eq!(&*found[0].advisory.aliases[0], "CVE-2024-1");
    assert_eq!(found[0].rating.severity, Severity::Low, "the distribution's word beats the vector");
    assert_eq!(
        found[0].advisory.published,
        Some(Utc.with_ymd_and_hms(2025, 9, 1, 0, 0, 0).unwrap())
    );
    assert_eq!(hits("Debian:12", "3.0.11-1~deb12u2"), []);
    let open = hits("Debian:13", "3.5.1-1");
    assert_eq!((open.len(), open[0].rating.severity), (1, Severity::Critical));
    assert_eq!(open[0].fixed, None);
    assert_eq!(database.info().advisories, 2);
    assert_eq!(database.info().ecosystems["Debian:12"].advisories, 2);
}

#[test]
fn a_file_that_was_cut_or_changed_is_an_error_and_never_an_empty_answer() {
    let json =
        format!("[{}]", record("A", "2025-10-01T00:00:00Z", r#", "aliases": ["CVE-2025-1"]"#));
    let records: Vec<Record> = serde_json::from_str(&json).unwrap();
    let mut builder = Builder::default();
    records.into_iter().for_each(|record| builder.add(record));
    let bytes = builder.finish(Vec::new(), day(3), false, None).unwrap();
    let installed = Installed::new(Scheme::Pep440, "1.0");
    let read = |bytes: Vec<u8>| {
        Database::of_bytes(bytes)?.hits(ecosystem::PYPI, "demo", &installed).map(|hits| hits.len())
    };
    assert_eq!(read(bytes.clone()).unwrap(), 1);
    for end in [0, 7, HEADER, HEADER + 20, bytes.len() - 1] {
        assert!(read(bytes[..end].to_vec()).is_err(), "cut at {end}");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(read(changed).is_err(), "changed at {at}");
    }
}
