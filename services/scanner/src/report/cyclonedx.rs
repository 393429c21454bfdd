//! CycloneDX 1.5. <https://cyclonedx.org/docs/1.5/json/>

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use mecapy_registry::Digest;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::engine::Scan;
use crate::package::{Ecosystem, OsRelease, Package};

const IMAGE: &str = "image";

pub fn document(scan: &Scan, at: DateTime<Utc>) -> Value {
    let os = scan.contents.os.as_ref();
    // One component a package, with every place where the image has it.
    let mut places: BTreeMap<String, Vec<&Package>> = BTreeMap::new();
    for package in &scan.contents.packages {
        places.entry(package.purl(os)).or_default().push(package);
    }
    let mut components: Vec<Value> = os.map(operating_system).into_iter().collect();
    components.extend(places.iter().map(|(purl, packages)| component(purl, packages)));
    let references: Vec<Value> =
        components.iter().map(|component| component["bom-ref"].clone()).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": format!("urn:uuid:{}", serial(scan.digest)),
        "version": 1,
        "metadata": {
            "timestamp": at.to_rfc3339_opts(SecondsFormat::Secs, true),
            "tools": { "components": [{
                "type": "application",
                "name": format!("mecapy-scanner ({})", scan.engine.name),
                "version": scan.engine.version,
            }]},
            "component": {
                "type": "container",
                "bom-ref": IMAGE,
                "name": scan.image,
                "version": scan.digest.to_string(),
                "hashes": [{ "alg": "SHA-256", "content": scan.digest.hex() }],
            },
        },
        "components": components,
        "dependencies": [{ "ref": IMAGE, "dependsOn": references }],
    })
}

/// The same image has the same bill.
fn serial(digest: Digest) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, digest.to_string().as_bytes())
}

fn operating_system(os: &OsRelease) -> Value {
    json!({
        "type": "operating-system",
        "bom-ref": format!("os:{}-{}", os.id, os.version_id),
        "name": os.id,
        "version": os.version_id,
        "description": os.pretty_name,
    })
}

fn component(purl: &str, packages: &[&Package]) -> Value {
    let occurrences: Vec<Value> =
        packages.iter().map(|package| json!({ "location": package.path })).collect();
    let mut properties = Vec::new();
    for package in packages {
        properties.push(json!({ "name": "mecapy:layer", "value": package.layer.to_string() }));
        if let Some(source) = &package.source {
            properties.push(json!({ "name": "mecapy:source", "value": format!("{} {}", source.name, source.version) }));
        }
    }
    properties.dedup();
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "evidence": { "occurrences": occurrences },
        "properties": properties,
    });
    if let Some(package) = packages.first() {
        component["name"] = package.name.clone().into();
        component["version"] = package.version.clone().into();
        match package.ecosystem {
            Ecosystem::Deb => component["publisher"] = "dpkg".into(),
            Ecosystem::Apk => component["publisher"] = "apk".into(),
            Ecosystem::Pypi | Ecosystem::Other => {}
        }
    }
    component
}
