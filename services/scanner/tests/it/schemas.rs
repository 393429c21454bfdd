//! Reports against the schemas that their formats publish.

use std::sync::Arc;

use chrono::Utc;
use mecapy_advisories::Database;
use mecapy_registry::Digest;
use mecapy_scanner::engine::{DatabaseInfo, EngineInfo, Scan};
use mecapy_scanner::image::{self, Layer};
use mecapy_scanner::layer::{Limits, index};
use mecapy_scanner::policy::Policy;
use mecapy_scanner::verdict::decide;
use mecapy_scanner::{Report, finding};
use mecapy_testkit::JsonSchema;
use serde_json::Value;

use crate::tarball::Tarball;

fn schema(name: &str) -> Value {
    let path = format!("{}/tests/schemas/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Of an image with everything in it that reports tell of.
fn report(layers: &[Vec<u8>]) -> Report {
    let layers: Vec<Layer> = layers
        .iter()
        .map(|bytes| Layer {
            digest: Digest::of(bytes),
            index: Arc::new(index(&mut bytes.as_slice(), &Limits::default()).unwrap()),
        })
        .collect();
    let database = Database::starter().unwrap();
    let contents = image::merge(&layers);
    let findings = finding::find(&database, &contents).unwrap().findings;
    let decision = decide(&findings, &Policy::default(), Utc::now());
    let digest = Digest::of(b"image");
    let scan = Scan {
        image: format!("registry:5000/mecapy/staging/x@{digest}"),
        digest,
        engine: EngineInfo { name: "osv".into(), version: "0.1.0".into() },
        database: DatabaseInfo {
            version: database.info().version.clone(),
            partial: true,
            newest: database.info().newest,
            age_hours: None,
            advisories: database.info().advisories,
            ecosystems: Default::default(),
            unknown_ecosystems: Vec::new(),
        },
        contents,
        findings,
        layers: Vec::new(),
    };
    Report::new(scan, decision, Utc::now())
}

fn full() -> Report {
    let debian = Tarball::new()
        .file("etc/os-release", "ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n")
        .file(
            "var/lib/dpkg/status",
            "Package: libstdc++6\nVersion: 14.2.0-19\nArchitecture: amd64\nSource: gcc-14\n\nPackage: bash\nVersion: 1:5\n",
        );
    let python = Tarball::new()
        .python("PyYAML", "5.3")
        .python("setuptools", "65.5.1")
        .file("srv/Py YAML ü-5.3.dist-info/METADATA", "Name: PyYAML\nVersion: 5.3\n");
    report(&[debian.gzip(), python.gzip()])
}

#[test]
fn bills_of_materials_are_what_cyclonedx_1_5_says() {
    let schemas = ["bom-1.5", "spdx", "jsf-0.82"].map(|name| {
        let version = if name == "bom-1.5" { "" } else { ".SNAPSHOT" };
        let address = format!("http://cyclonedx.org/schema/{name}{version}.schema.json");
        (address, schema(&format!("{name}.schema.json")))
    });
    let validator = JsonSchema::new(&schemas);
    for report in [
        full(),
        report(&[]),
        report(&[Tarball::new().file("lib/apk/db/installed", "P:musl\nV:1-r0\n").tar()]),
    ] {
        let document: Value = serde_json::from_slice(&report.to_cyclonedx().unwrap()).unwrap();
        assert_eq!(validator.problems(&document), [""; 0]);
    }
    // It would find something.
    let mut broken: Value = serde_json::from_slice(&full().to_cyclonedx().unwrap()).unwrap();
    broken["components"][0]["type"] = "libary".into();
    assert_eq!(validator.problems(&broken).len(), 1);
}

#[test]
fn findings_are_what_sarif_2_1_0_says() {
    // As published, the pattern of a language has a bracket too many, and is no regular expression.
    let published = schema("sarif-2.1.0.schema.json").to_string();
    let sarif = published.replace("-[a-zA-Z]{2}]?$", "-[a-zA-Z]{2}$");
    assert_ne!(sarif, published);
    let sarif: Value = serde_json::from_str(&sarif).unwrap();
    let validator = JsonSchema::new(&[("https://json.schemastore.org/sarif-2.1.0.json", sarif)]);
    let full = full();
    assert!(full.scan.findings.len() >= 4, "{:#?}", full.scan.findings);
    for report in [full, report(&[])] {
        let document: Value =
            serde_json::from_slice(&report.to_sarif("base/3.11-slim/").unwrap()).unwrap();
        assert_eq!(validator.problems(&document), [""; 0]);
        assert_eq!(document["runs"][0]["automationDetails"]["id"], "base/3.11-slim/");
    }
}
