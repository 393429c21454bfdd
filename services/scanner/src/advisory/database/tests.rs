use chrono::{Duration, TimeZone as _};

use super::*;

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
    builder.finish("test", now)
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
    starter.check_age(day(1) + Duration::days(36_500), Duration::days(7)).unwrap();
    let hits: Vec<_> = starter
        .hits("pyyaml", &Installed::new("5.3.1"))
        .map(|hit| hit.advisory.id.to_string())
        .collect();
    assert_eq!(hits, ["GHSA-8q59-q68h-6hv4"]);
}

#[test]
fn every_advisory_of_the_starter_set_is_critical_or_high_has_a_cve_and_a_summary() {
    let starter = Database::starter().unwrap();
    for advisory in &starter.advisories {
        assert!(advisory.rating.severity >= Severity::High, "{}", advisory.id);
        assert!(advisory.names().any(|name| name.starts_with("CVE-")), "{}", advisory.id);
        assert!(!advisory.summary.is_empty(), "{}", advisory.id);
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
    database.check_age(day(11), Duration::days(7)).unwrap();
    let error = database.check_age(day(12), Duration::days(7)).unwrap_err();
    assert!(matches!(error, Error::DatabaseTooOld { limit_days: 7, .. }), "{error}");
}

#[test]
fn a_database_of_the_future_alone_is_of_no_use() {
    let database = imported(&[record("A", "2027-01-01T00:00:00Z", "")], day(1)).unwrap();
    assert!(database.check_age(day(1), Duration::days(7)).is_err());
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
    let mut database = imported(
        &[
            record("PYSEC-1", "2025-10-01T00:00:00Z", r#", "aliases": ["CVE-1"]"#),
            record(
                "PYSEC-2",
                "2025-10-01T00:00:00Z",
                r#", "aliases": ["CVE-2"], "database_specific": {"severity": "LOW"}"#,
            ),
            record("PYSEC-3", "2025-10-01T00:00:00Z", r#", "aliases": ["CVE-3"]"#),
        ],
        day(3),
    )
    .unwrap();
    let critical = |id: &str, alias: &str| {
        let more =
            format!(r#", "aliases": ["{alias}"], "database_specific": {{"severity": "CRITICAL"}}"#);
        record(id, "2025-10-01T00:00:00Z", &more)
    };
    let other =
        imported(&[critical("GHSA-1", "CVE-1"), critical("GHSA-2", "CVE-2")], day(3)).unwrap();
    database.rate_unknown_by(&other);
    let installed = Installed::new("1.0");
    let severities: Vec<Severity> =
        database.hits("demo", &installed).map(|hit| hit.rating.severity).collect();
    assert_eq!(severities, [Severity::Critical, Severity::Low, Severity::Unknown]);
}

#[test]
fn fields_that_are_null_missing_or_new_are_no_error() {
    let record = r#"{"id": "A", "modified": "2025-10-01T00:00:00Z", "aliases": null, "severity": null,
        "schema_version": "9.9.9", "new": {"x": [1]}, "database_specific": null,
        "affected": [
            {"versions": ["1"]},
            {"package": {"ecosystem": "PyPI", "name": "Demo_X", "purl": "pkg:pypi/demo-x"}, "ranges": null,
             "versions": ["1.0"], "ecosystem_specific": {"severity": "high"}},
            {"package": {"ecosystem": "npm", "name": "demo"}, "versions": ["1.0"]}
        ]}"#;
    let database = imported(&[record.to_owned()], day(3)).unwrap();
    assert_eq!(database.info().packages, 1);
    let installed = Installed::new("1.0");
    let hits: Vec<_> = database.hits("demo-x", &installed).collect();
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].rating.severity, Severity::High);
}
