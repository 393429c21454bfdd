use chrono::TimeZone as _;
use mecapy_registry::Digest;
use serde_json::Value;

use super::*;
use crate::engine::{DatabaseInfo, EngineInfo};
use crate::finding::{Finding, Location};
use crate::image::Contents;
use crate::package::{Ecosystem, OsRelease, Package, Source};
use crate::policy::Policy;
use crate::severity::{Rating, Severity};
use crate::verdict::Decision;

fn decide(findings: &[Finding]) -> Decision {
    crate::verdict::decide(findings, &Policy::default(), Utc::now())
}

fn report() -> Report {
    let digest = Digest::of(b"image");
    let python = Package {
        ecosystem: Ecosystem::Pypi,
        name: "pyyaml".into(),
        version: "5.3".into(),
        source: None,
        architecture: None,
        path: "opt/venv/lib/python3.11/site-packages/Py YAML-5.3.dist-info/METADATA".into(),
        layer: Digest::of(b"layer"),
    };
    let elsewhere = Package { path: "srv/PyYAML-5.3.dist-info/METADATA".into(), ..python.clone() };
    let deb = Package {
        ecosystem: Ecosystem::Deb,
        name: "libc6".into(),
        version: "2.41-12".into(),
        source: Some(Source { name: "glibc".into(), version: "2.41-12".into() }),
        architecture: Some("amd64".into()),
        path: "var/lib/dpkg/status".into(),
        layer: Digest::of(b"base"),
    };
    let location =
        |package: &Package| Location { path: package.path.clone(), layer: package.layer };
    let finding = Finding {
        id: "CVE-2020-14343".into(),
        aliases: vec!["GHSA-8q59-q68h-6hv4".into()],
        ecosystem: Ecosystem::Pypi,
        package: "pyyaml".into(),
        installed: "5.3".into(),
        purls: vec!["pkg:pypi/pyyaml@5.3".into()],
        published: None,
        fixed: Some("5.4".into()),
        upgrade_to: Some("5.4".into()),
        rating: Rating { severity: Severity::Critical, score: Some(9.8) },
        summary: "Loading a document can run code".into(),
        locations: vec![location(&python), location(&elsewhere)],
    };
    let unrated = Finding {
        id: "CVE-2020-1".into(),
        rating: Rating::default(),
        summary: String::new(),
        fixed: None,
        upgrade_to: None,
        ..finding.clone()
    };
    let findings = vec![finding, unrated];
    let decision = decide(&findings);
    let scan = Scan {
        image: format!("registry:5000/mecapy/staging/x@{digest}"),
        digest,
        engine: EngineInfo { name: "osv".into(), version: "0.1.0".into() },
        database: DatabaseInfo {
            version: "v".into(),
            partial: true,
            newest: None,
            age_hours: None,
            advisories: 3,
            ecosystems: [("PyPI".to_owned(), 3)].into(),
            unknown_ecosystems: Vec::new(),
        },
        contents: Contents {
            os: Some(OsRelease {
                id: "debian".into(),
                version_id: "13".into(),
                pretty_name: "Debian 13".into(),
            }),
            packages: vec![deb, python, elsewhere],
        },
        findings,
        layers: Vec::new(),
    };
    Report::new(scan, decision, Utc.with_ymd_and_hms(2025, 10, 4, 2, 0, 0).unwrap())
}

fn parse(bytes: Result<Vec<u8>, Error>) -> Value {
    serde_json::from_slice(&bytes.unwrap()).unwrap()
}

#[test]
fn the_full_report_says_everything_on_one_level_and_can_be_read_back() {
    let report = report();
    let json = parse(report.to_json());
    assert_eq!(json["schema"], "mecapy.scan/1");
    assert_eq!(json["verdict"], "REJECTED");
    assert_eq!(json["counts"]["critical"], 1);
    assert_eq!(json["counts"]["unknown"], 1);
    assert_eq!(
        json["reasons"][0],
        "pyyaml 5.3 has CRITICAL CVE-2020-14343: upgrade to 5.4 or later"
    );
    assert_eq!(json["database"]["partial"], true);
    assert_eq!(json["findings"][0]["severity"], "CRITICAL");
    assert_eq!(json["os"]["id"], "debian");
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}

#[test]
fn a_scan_with_the_starter_set_says_so_to_the_user() {
    let warnings = report().decision.warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("the 3 advisories of the starter set")),
        "{warnings:?}"
    );
}

#[test]
fn packages_that_nothing_is_known_of_are_warned_of() {
    let mut report = report();
    report.scan.database.unknown_ecosystems = vec!["Debian:13".to_owned()];
    let decision = decide(&report.scan.findings);
    let warnings = Report::new(report.scan, decision, Utc::now()).decision.warnings;
    let last = warnings.last().unwrap();
    assert_eq!(
        last,
        "the advisory database knows nothing of Debian:13: its packages were not looked for"
    );
}

#[test]
fn equal_scans_give_equal_bytes() {
    assert_eq!(report().to_json().unwrap(), report().to_json().unwrap());
    assert_eq!(report().to_cyclonedx().unwrap(), report().to_cyclonedx().unwrap());
    assert_eq!(
        report().to_sarif("function-7/").unwrap(),
        report().to_sarif("function-7/").unwrap()
    );
}

#[test]
fn the_bill_of_materials_has_one_component_a_package_with_all_its_places() {
    let json = parse(report().to_cyclonedx());
    assert_eq!(
        (json["bomFormat"].as_str(), json["specVersion"].as_str()),
        (Some("CycloneDX"), Some("1.5"))
    );
    let components = json["components"].as_array().unwrap();
    let references: Vec<&str> =
        components.iter().map(|component| component["bom-ref"].as_str().unwrap()).collect();
    assert_eq!(
        references,
        [
            "os:debian-13",
            "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13",
            "pkg:pypi/pyyaml@5.3"
        ]
    );
    assert_eq!(components[2]["evidence"]["occurrences"].as_array().unwrap().len(), 2);
    // References are unique and every dependency is one of them.
    assert_eq!(json["dependencies"][0]["dependsOn"].as_array().unwrap().len(), components.len());
    assert_eq!(json["dependencies"][0]["ref"], json["metadata"]["component"]["bom-ref"]);
}

#[test]
fn every_sarif_result_points_to_its_rule_and_to_relative_uris() {
    let json = parse(report().to_sarif("function-7/"));
    let run = &json["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let results = run["results"].as_array().unwrap();
    assert_eq!((rules.len(), results.len()), (2, 2));
    for result in results {
        let rule = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[rule]["id"], result["ruleId"]);
    }
    assert_eq!(results[0]["level"], "error");
    assert_eq!(results[1]["level"], "warning");
    let first = &results[0]["locations"][0]["physicalLocation"]["artifactLocation"];
    assert_eq!(
        first["uri"],
        "opt/venv/lib/python3.11/site-packages/Py%20YAML-5.3.dist-info/METADATA"
    );
    let of_critical = rules.iter().find(|rule| rule["id"] == "CVE-2020-14343").unwrap();
    assert_eq!(of_critical["properties"]["security-severity"], "9.8");
    assert_eq!(of_critical["fullDescription"]["text"], "Loading a document can run code");
}
