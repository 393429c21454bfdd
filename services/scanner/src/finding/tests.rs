use super::*;
use crate::package::Source;

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
    Database::partial(DATABASE).unwrap()
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

fn find(database: &Database, packages: &[Package]) -> Vec<Finding> {
    let contents = Contents { os: None, packages: packages.to_vec() };
    super::find(database, &contents).unwrap().findings
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

const DISTRIBUTIONS: &str = r#"[
  {"id": "DEBIAN-CVE-2024-1", "modified": "2025-01-01T00:00:00Z", "published": "2024-03-01T00:00:00Z",
   "upstream": ["CVE-2024-1"], "summary": "of the library",
   "affected": [{"package": {"ecosystem": "Debian:12", "name": "openssl"}, "ecosystem_specific": {"urgency": "high"},
     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.0.11-1~deb12u2"}]}]}]},
  {"id": "DSA-1-1", "modified": "2025-01-01T00:00:00Z", "published": "2024-02-01T00:00:00Z",
   "upstream": ["CVE-2024-1", "CVE-2024-2"],
   "affected": [{"package": {"ecosystem": "Debian:12", "name": "openssl"},
     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.0.11-1~deb12u2"}]}]}]},
  {"id": "DLA-9-1", "modified": "2025-01-01T00:00:00Z", "upstream": ["CVE-2024-9"],
   "affected": [{"package": {"ecosystem": "Debian:12", "name": "openssl"},
     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]},
  {"id": "ALPINE-CVE-2024-1", "modified": "2025-01-01T00:00:00Z", "upstream": ["CVE-2024-1"],
   "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
   "affected": [{"package": {"ecosystem": "Alpine:v3.19", "name": "openssl"},
     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.4-r5"}]}]}]}
]"#;

fn of_distribution(
    id: &str,
    version_id: &str,
    packages: &[(Ecosystem, &str, &str, &str)],
) -> Found {
    let database =
        Database::of_records(DISTRIBUTIONS, "2025-01-02T00:00:00Z".parse().unwrap()).unwrap();
    let os = OsRelease {
        id: id.to_owned(),
        version_id: version_id.to_owned(),
        pretty_name: String::new(),
    };
    let packages = packages.iter().map(|(ecosystem, name, version, source)| Package {
        ecosystem: *ecosystem,
        source: Some(Source { name: (*source).to_owned(), version: (*version).to_owned() }),
        ..package(name, version, "var/lib/dpkg/status")
    });
    super::find(&database, &Contents { os: Some(os), packages: packages.collect() }).unwrap()
}

#[test]
fn packages_of_debian_are_matched_by_their_source_once_for_all_that_are_built_from_it() {
    let found = of_distribution(
        "debian",
        "12",
        &[
            (Ecosystem::Deb, "libssl3", "3.0.11-1~deb12u1", "openssl"),
            (Ecosystem::Deb, "openssl", "3.0.11-1~deb12u1", "openssl"),
            (Ecosystem::Deb, "bash", "5.2.15-2", "bash"),
        ],
    );
    assert_eq!(ids(&found.findings), ["CVE-2024-1", "CVE-2024-2", "CVE-2024-9"]);
    let finding = &found.findings[0];
    assert_eq!(
        finding.aliases,
        ["DEBIAN-CVE-2024-1", "DSA-1-1"],
        "a notice makes no two flaws one"
    );
    assert_eq!((&*finding.package, finding.rating.severity), ("openssl", Severity::High));
    assert_eq!(finding.fixed.as_deref(), Some("3.0.11-1~deb12u2"));
    assert_eq!(finding.published, Some("2024-02-01T00:00:00Z".parse().unwrap()));
    assert_eq!(
        finding.purls,
        [
            "pkg:deb/debian/libssl3@3.0.11-1~deb12u1?distro=debian-12",
            "pkg:deb/debian/openssl@3.0.11-1~deb12u1?distro=debian-12"
        ]
    );
    assert_eq!(found.findings[2].aliases, ["DLA-9-1"]);
    assert!(found.unknown_ecosystems.is_empty());
}

#[test]
fn packages_of_alpine_are_matched_by_their_origin() {
    let package = [(Ecosystem::Apk, "libcrypto3", "3.1.4-r4", "openssl")];
    let found = of_distribution("alpine", "3.19.1", &package);
    assert_eq!(ids(&found.findings), ["CVE-2024-1"]);
    assert_eq!(found.findings[0].rating.severity, Severity::Critical);
    assert_eq!(found.findings[0].upgrade_to.as_deref(), Some("3.1.4-r5"));
    let fixed = [(Ecosystem::Apk, "libcrypto3", "3.1.4-r5", "openssl")];
    assert_eq!(of_distribution("alpine", "3.19.1", &fixed).findings, []);
}

#[test]
fn what_the_database_knows_nothing_of_is_said_to_be_so() {
    let deb = [(Ecosystem::Deb, "bash", "5.2", "bash")];
    assert_eq!(of_distribution("debian", "13", &deb).unknown_ecosystems, ["Debian:13"]);
    assert_eq!(of_distribution("ubuntu", "24.04", &deb).unknown_ecosystems, ["ubuntu 24.04"]);
    let pypi = [(Ecosystem::Pypi, "six", "1.16.0", "six")];
    assert_eq!(of_distribution("debian", "12", &pypi).unknown_ecosystems, ["PyPI"]);
}
