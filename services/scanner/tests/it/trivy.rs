//! The real trivy, where it is: of the version that is pinned, with its database in the cache that `TRIVY_CACHE_DIR`
//! names.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use mecapy_registry::Options as RegistryOptions;
use mecapy_scanner::finding::Finding;
use mecapy_scanner::package::Ecosystem;
use mecapy_scanner::trivy::{Options, Trivy, VERSION};
use mecapy_scanner::{Engine as _, LayerCache, Target};
use mecapy_testkit::{Infra, unique};

use crate::images::{Family, osv, push, registry};
use crate::tarball::Tarball;

fn trivy() -> Option<(Options, RegistryOptions)> {
    let installed = Command::new("trivy").args(["version", "--format", "json"]).output();
    let here = installed.is_ok_and(|done| String::from_utf8_lossy(&done.stdout).contains(VERSION));
    let cache = std::env::var_os("TRIVY_CACHE_DIR").map(PathBuf::from);
    match cache.filter(|cache| here && cache.join("db/trivy.db").is_file()) {
        Some(cache) => Some((Options { cache, ..Options::default() }, RegistryOptions::default())),
        None => {
            println!(
                "skipped: trivy {VERSION} is not installed (make trivy), or TRIVY_CACHE_DIR has no database"
            );
            None
        }
    }
}

fn found(findings: &[Finding]) -> BTreeSet<(String, String, String)> {
    findings
        .iter()
        .filter(|finding| finding.ecosystem == Ecosystem::Pypi)
        .map(|finding| (finding.package.clone(), finding.installed.clone(), finding.id.clone()))
        .collect()
}

#[tokio::test]
async fn both_engines_find_the_same_in_one_image() {
    let Some((options, of_registry)) = trivy() else { return };
    let registry = registry().await;
    let server = Infra::shared().await.primary();
    let of_registry = RegistryOptions {
        host: server.host,
        username: Some(server.username),
        password: Some(mecapy_service::Secret::new(server.password)),
        plain_http: true,
        ..of_registry
    };
    let repository = unique("both");
    let layer = Tarball::new().python("h11", "0.14.0").python("PyYAML", "5.3").gzip();
    let digest = push(&registry, &repository, Family::Oci, &[layer]).await;
    let target = Target { registry: &registry, repository: &repository, digest };
    let limit = Duration::from_secs(120);
    let trivy = Trivy::new(options, of_registry, limit, chrono::Duration::days(3_650));
    let theirs = found(&trivy.scan(target).await.unwrap().findings);
    let ours = found(&osv(LayerCache::in_memory()).scan(target).await.unwrap().findings);
    // The starter set is a few of what trivy's database has: every one of them must be there.
    let missing: Vec<_> = ours.difference(&theirs).collect();
    assert!(!ours.is_empty() && missing.is_empty(), "trivy doesn't find {missing:?}");
}
