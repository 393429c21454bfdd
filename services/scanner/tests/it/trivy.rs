//! The real trivy beside the embedded engine: the same image, the same advisories. Where it is of the version that is
//! pinned (`make trivy`), and `TRIVY_CACHE_DIR` has a database that `scripts/trivy database` made of an export.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use chrono::Utc;
use mecapy_advisories::import;
use mecapy_registry::{Digest, Options as RegistryOptions, Registry};
use mecapy_scanner::finding::Finding;
use mecapy_scanner::layer::Limits;
use mecapy_scanner::trivy::{Options, Trivy, VERSION};
use mecapy_scanner::{Advisories, Engine as _, LayerCache, Osv, Target};
use mecapy_testkit::{Infra, Port, eventually, free_port, unique};
use tokio::process::Child;
use tokio::sync::Mutex;

use crate::images::{Family, push, registry};
use crate::tarball::Tarball;

const LIMIT: Duration = Duration::from_secs(300);
const AGES: chrono::Duration = chrono::Duration::days(3_650);
/// Whose turn it is with the database: whoever has it open locks it, and a server does as long as it runs.
static TURN: Mutex<()> = Mutex::const_new(());

/// Packages in versions that had their flaws, of all kinds of versions: pre-releases, post-releases, dates, epochs, local ones.
const PACKAGES: &[(&str, &str)] = &[
    ("aiohttp", "3.7.4.post0"),
    ("ansible", "2.9.10"),
    ("apache-airflow", "2.2.0"),
    ("Babel", "2.8.0"),
    ("bleach", "3.0.0"),
    ("celery", "4.4.7"),
    ("certifi", "2020.12.5"),
    ("cryptography", "3.2"),
    ("Django", "3.2"),
    ("django", "4.0rc1"),
    ("Flask", "0.12"),
    ("gradio", "3.50.2"),
    ("gunicorn", "19.9.0"),
    ("h11", "0.14.0"),
    ("httpx", "0.22.0"),
    ("Jinja2", "2.10"),
    ("jupyter_server", "1.4.1"),
    ("keystone", "8.0.0.0b1"),
    ("langchain", "0.0.200"),
    ("lxml", "4.6.2"),
    ("mercurial", "4.5.2"),
    ("mistune", "0.8.3"),
    ("mlflow", "2.3.1"),
    ("nltk", "3.6.1"),
    ("notebook", "6.0.3"),
    ("nova", "13.0.0"),
    ("numpy", "1.21.0"),
    ("oauthlib", "3.1.0"),
    ("opencv-python", "4.1.0.25"),
    ("paramiko", "2.4.0"),
    ("Pillow", "8.0.0"),
    ("pip", "21.0"),
    ("protobuf", "3.15.0"),
    ("py", "1.9.0"),
    ("PyYAML", "5.3"),
    ("requests", "2.19.1"),
    ("rsa", "4.0"),
    ("salt", "3002.1"),
    ("setuptools", "65.5.0"),
    ("six", "1.16.0"),
    ("SQLAlchemy", "1.2.17"),
    ("tensorflow", "2.5.0"),
    ("torch", "1.13.0+cu117"),
    ("tornado", "6.1"),
    ("transformers", "4.30.0"),
    ("Twisted", "20.3.0"),
    ("urllib3", "1.24.1"),
    ("waitress", "1.4.2"),
    ("Werkzeug", "0.15.3"),
    ("wheel", "0.37.0"),
];

/// The one difference: records about these name versions that PEP 440 doesn't know. Trivy leaves such a record out; ours
/// reads what it can of it, so that it flags rather than passes.
const UNREADABLE: &[(&str, &str)] = &[
    ("apache-airflow", "last_affected 2.10.0-NA"),
    ("nltk", "2.0.1rc2-git among the listed"),
    ("paramiko", "0.1-bulbasaur among the listed"),
    ("torch", "last_affected 2.6.0-cu124"),
];

fn trivy() -> Option<(Options, PathBuf)> {
    let installed = Command::new("trivy").args(["version", "--format", "json"]).output();
    let here = installed.is_ok_and(|done| String::from_utf8_lossy(&done.stdout).contains(VERSION));
    let cache = std::env::var_os("TRIVY_CACHE_DIR").map(PathBuf::from);
    let export =
        cache.as_ref().and_then(|cache| std::fs::read_to_string(cache.join("export")).ok());
    match (cache, export) {
        (Some(cache), Some(export)) if here => {
            Some((Options { cache, ..Options::default() }, export.trim().into()))
        }
        _ => {
            println!(
                "skipped: trivy {VERSION} is not installed (make trivy), or TRIVY_CACHE_DIR has no database of an export (scripts/trivy database)"
            );
            None
        }
    }
}

async fn options() -> RegistryOptions {
    let server = Infra::shared().await.primary();
    RegistryOptions {
        host: server.host,
        username: Some(server.username),
        password: Some(mecapy_service::Secret::new(server.password)),
        plain_http: true,
        ..RegistryOptions::default()
    }
}

async fn image(registry: &Registry, repository: &str) -> Digest {
    let layer = PACKAGES
        .iter()
        .fold(Tarball::new(), |layer, (name, version)| layer.python(name, version))
        .gzip();
    push(registry, repository, Family::Oci, &[layer]).await
}

fn found(findings: &[Finding]) -> BTreeSet<(String, String, String)> {
    findings
        .iter()
        .map(|finding| {
            let package = mecapy_advisories::ecosystem::normalise_pypi_name(&finding.package);
            (package, finding.installed.clone(), finding.id.clone())
        })
        .collect()
}

#[tokio::test]
async fn both_engines_find_the_same_in_one_image() {
    let Some((of_trivy, export)) = trivy() else { return };
    let _turn = TURN.lock().await;
    let registry = registry().await;
    let repository = unique("both");
    let digest = image(&registry, &repository).await;
    let target = Target { registry: &registry, repository: &repository, digest };
    let trivy = Trivy::new(of_trivy, options().await, LIMIT, AGES);
    let theirs = trivy.scan(target).await.unwrap();
    let database = import(&[export], Vec::new(), Utc::now()).unwrap().open().unwrap();
    let osv = Osv::new(
        Advisories::fixed(database, AGES),
        LayerCache::in_memory(),
        Limits::default(),
        LIMIT,
    );
    let ours = osv.scan(target).await.unwrap();
    assert_eq!(theirs.contents.packages.len(), ours.contents.packages.len());
    let (of_them, of_us) = (found(&theirs.findings), found(&ours.findings));
    // 787 of 815 in the export of July 2026.
    assert!(of_us.intersection(&of_them).count() > 500, "{of_them:?}");
    let theirs_alone: Vec<_> = of_them.difference(&of_us).collect();
    assert!(theirs_alone.is_empty(), "{theirs_alone:?}");
    let unexplained: Vec<_> = of_us
        .difference(&of_them)
        .filter(|(package, ..)| !UNREADABLE.iter().any(|(of, _)| of == package))
        .collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

/// A `trivy server` on a port of its own, with this database. It ends with the test.
async fn server(of: &Options) -> (Child, Port, String) {
    let port = free_port();
    let address = format!("127.0.0.1:{}", port.number);
    let child = tokio::process::Command::new(&of.program)
        .arg("--cache-dir")
        .arg(&of.cache)
        .args(["server", "--quiet", "--skip-db-update", "--listen"])
        .arg(&address)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("trivy's server listens", LIMIT, async || {
        tokio::net::TcpStream::connect(&address).await.ok().map(drop)
    })
    .await;
    (child, port, format!("http://{address}"))
}

#[tokio::test]
async fn a_trivy_server_finds_what_trivy_finds_alone() {
    let Some((alone, _)) = trivy() else { return };
    let _turn = TURN.lock().await;
    let registry = registry().await;
    let repository = unique("server");
    let digest = image(&registry, &repository).await;
    let target = Target { registry: &registry, repository: &repository, digest };
    let login = options().await;
    let trivy = async |of: Options| Trivy::new(of, login.clone(), LIMIT, AGES).scan(target).await;
    // First: the server has its database for itself.
    let by_itself = trivy(alone.clone()).await.unwrap();
    let (_server, _port, address) = server(&alone).await;
    // The client has no database of its own: what is found, the server found.
    let empty = tempfile::tempdir().unwrap();
    let cache = empty.path().to_owned();
    let client = Options { cache, server: Some(address), ..Options::default() };
    let without_server = Options { server: None, ..client.clone() };
    let by_server = trivy(client).await.unwrap();
    assert!(by_server.findings.len() > 500);
    assert_eq!(found(&by_server.findings), found(&by_itself.findings));
    assert_eq!(by_server.contents.packages.len(), by_itself.contents.packages.len());
    assert_eq!(by_server.database.version, "server");
    assert!(trivy(without_server).await.is_err(), "it has no database");
}
