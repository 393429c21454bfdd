use super::*;

const DATABASE: &str = r#"[
  {"id": "PYSEC-1", "modified": "2025-01-01T00:00:00Z", "aliases": ["CVE-2025-1", "GHSA-a"], "summary": "first",
   "database_specific": {"severity": "HIGH"},
   "affected": [{"package": {"ecosystem": "PyPI", "name": "Demo"},
     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5"}]}]}]},
  {"id": "GHSA-a", "modified": "2025-01-01T00:00:00Z", "summary": "the same, seen by others",
   "database_specific": {"severity": "CRITICAL"},
   "affected": [{"package": {"ecosystem": "PyPI", "name": "demo"},
     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.10"}]}]}]},
  {"id": "PYSEC-2", "modified": "2025-01-01T00:00:00Z", "aliases": ["CVE-2025-2"],
   "database_specific": {"severity": "CRITICAL"},
   "affected": [{"package": {"ecosystem": "PyPI", "name": "demo"},
     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "1.8"}, {"fixed": "2.0"}]}]}]},
  {"id": "PYSEC-3", "modified": "2025-01-01T00:00:00Z", "aliases": ["CVE-2025-3"],
   "affected": [{"package": {"ecosystem": "PyPI", "name": "demo"}, "versions": ["1.0"]}]},
  {"id": "PYSEC-4", "modified": "2025-01-01T00:00:00Z", "withdrawn": "2025-02-01T00:00:00Z",
   "database_specific": {"severity": "CRITICAL"},
   "affected": [{"package": {"ecosystem": "PyPI", "name": "demo"},
     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]},
  {"id": "PYSEC-5", "modified": "2025-01-01T00:00:00Z", "aliases": ["MAL-2025-5"],
   "affected": [{"package": {"ecosystem": "PyPI", "name": "evil"}, "versions": ["1.0"]}]},
  {"id": "PYSEC-6", "modified": "2025-01-01T00:00:00Z", "database_specific": {"severity": "CRITICAL"},
   "affected": [{"package": {"ecosystem": "npm", "name": "demo"},
     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]}
]"#;

fn database() -> Database {
    Database::of_records(DATABASE).unwrap()
}

fn package(name: &str, version: &str, path: &str) -> Package {
    Package {
        ecosystem: Ecosystem::Pypi,
        name: name.to_owned(),
        version: version.to_owned(),
        source: None,
        architecture: None,
        path: path.to_owned(),
        layer: Digest::of(b"layer"),
    }
}

fn ids(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.id.as_str()).collect()
}

#[test]
fn advisories_about_one_flaw_are_one_finding_under_its_cve() {
    let findings = find(&database(), &[package("demo", "1.0", "a")]);
    assert_eq!(ids(&findings), ["CVE-2025-1", "CVE-2025-3"]);
    let merged = &findings[0];
    assert_eq!(merged.aliases, ["GHSA-a", "PYSEC-1"]);
    assert_eq!(merged.rating.severity, Severity::Critical, "the worse of the two");
    assert_eq!(merged.fixed.as_deref(), Some("1.10"), "a fix for both, by version and not by text");
    assert_eq!(merged.summary, "first");
}

#[test]
fn an_upgrade_leads_past_fixes_that_are_critical_themselves() {
    let findings = find(&database(), &[package("demo", "1.0", "a")]);
    assert_eq!(findings[0].upgrade_to.as_deref(), Some("2.0"), "1.10 is itself CRITICAL");
}

#[test]
fn one_version_in_two_places_is_one_finding_with_both() {
    let findings = find(&database(), &[package("demo", "1.9", "b"), package("demo", "1.9", "a")]);
    assert_eq!(ids(&findings), ["CVE-2025-2", "GHSA-a"]);
    let paths: Vec<&str> = findings[0].locations.iter().map(|location| &*location.path).collect();
    assert_eq!(paths, ["a", "b"]);
}

#[test]
fn withdrawn_advisories_and_other_ecosystems_find_nothing() {
    assert_eq!(find(&database(), &[package("demo", "3.0", "a")]), []);
    let deb = Package { ecosystem: Ecosystem::Deb, ..package("demo", "1.0", "a") };
    assert_eq!(find(&database(), &[deb]), []);
}

#[test]
fn malware_is_critical_though_nobody_rates_it() {
    let findings = find(&database(), &[package("evil", "1.0", "a")]);
    assert_eq!(findings[0].rating.severity, Severity::Critical);
    assert_eq!(findings[0].upgrade_to, None);
}

#[test]
fn the_worst_come_first() {
    let findings = find(&database(), &[package("demo", "1.0", "a"), package("evil", "1.0", "b")]);
    let severities: Vec<Severity> =
        findings.iter().map(|finding| finding.rating.severity).collect();
    assert_eq!(severities, [Severity::Critical, Severity::Critical, Severity::Unknown]);
}
