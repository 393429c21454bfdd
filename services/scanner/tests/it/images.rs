//! Images in a real registry, with PostgreSQL behind the layer cache.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use mecapy_advisories::Database;
use mecapy_registry::{Content, Descriptor, Digest, Manifest, Options, Registry, media_types};
use mecapy_scanner::layer::Limits;
use mecapy_scanner::policy::Policy;
use mecapy_scanner::severity::Severity;
use mecapy_scanner::verdict::{Verdict, decide};
use mecapy_scanner::{Advisories, Engine as _, Error, LayerCache, Osv, Target};
use mecapy_service::Secret;
use mecapy_store::PgPool;
use mecapy_testkit::{Infra, eventually, unique};

use crate::chain::PATIENCE;
use crate::tarball::Tarball;

pub async fn registry() -> Registry {
    let server = Infra::shared().await.primary();
    let options = Options {
        host: server.host,
        username: Some(server.username),
        password: Some(Secret::new(server.password)),
        plain_http: true,
        ..Options::default()
    };
    Registry::new(&options).unwrap()
}

pub async fn database() -> PgPool {
    let url = Infra::shared().await.postgres().await;
    let pool =
        mecapy_store::connect(&mecapy_store::Options { url, ..Default::default() }).await.unwrap();
    mecapy_store::migrate(&pool).await.unwrap();
    pool
}

/// Pushes an image of these layers, and gives its digest.
pub async fn push(
    registry: &Registry,
    repository: &str,
    family: Family,
    layers: &[Vec<u8>],
) -> Digest {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(&unpacked(layer))).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = registry.put_blob(repository, config.to_string().into()).await.unwrap();
    let mut descriptors = Vec::new();
    for layer in layers {
        let stored = registry.put_blob(repository, Bytes::from(layer.clone())).await.unwrap();
        descriptors.push(Descriptor { media_type: family.layer().to_owned(), ..stored });
    }
    let config = Descriptor { media_type: family.config().to_owned(), ..config };
    let json = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": family.manifest(),
        "config": config,
        "layers": descriptors,
    });
    let manifest = Manifest::new(Bytes::from(json.to_string()), family.manifest());
    registry.put_manifest(repository, &manifest.digest.to_string(), &manifest).await.unwrap();
    manifest.digest
}

/// The layer's tar.
fn unpacked(layer: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    if layer.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(layer).read_to_end(&mut tar).unwrap();
    } else {
        tar = zstd::decode_all(layer).unwrap();
    }
    tar
}

#[derive(Clone, Copy)]
pub enum Family {
    Oci,
    Docker,
}

impl Family {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media_types::OCI_MANIFEST,
            Self::Docker => media_types::DOCKER_MANIFEST,
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => media_types::OCI_CONFIG,
            Self::Docker => media_types::DOCKER_CONFIG,
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Self::Oci => media_types::OCI_LAYER_GZIP,
            Self::Docker => media_types::DOCKER_LAYER_GZIP,
        }
    }
}

pub fn osv(layers: LayerCache) -> Osv {
    osv_with(layers, Limits::default())
}

fn osv_with(layers: LayerCache, limits: Limits) -> Osv {
    let advisories = Advisories::new(None, chrono::Duration::days(7)).unwrap();
    Osv::new(advisories, layers, limits, Duration::from_secs(60))
}

fn base() -> Vec<u8> {
    Tarball::new()
        .file(
            "etc/os-release",
            "ID=debian\nVERSION_ID=\"13\"\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n",
        )
        .file(
            "var/lib/dpkg/status",
            "Package: bash\nStatus: install ok installed\nVersion: 5.2.37-2\nArchitecture: amd64\n",
        )
        .python("six", "1.16.0")
        .file("x/odd-1.dist-info/METADATA", "Name: o\0dd\nVersion: 1\n")
        .gzip()
}

#[tokio::test]
async fn an_image_of_either_family_is_scanned_by_digest() {
    let registry = registry().await;
    for family in [Family::Oci, Family::Docker] {
        let repository = unique("scanned");
        let dependencies = Tarball::new().python("PyYAML", "5.3.1").zstd();
        let digest = push(&registry, &repository, family, &[base(), dependencies.clone()]).await;
        let target = Target { registry: &registry, repository: &repository, digest };
        let scan = osv(LayerCache::in_memory()).scan(target).await.unwrap();

        assert_eq!(scan.digest, digest);
        assert_eq!(scan.contents.os.as_ref().unwrap().version_id, "13");
        assert_eq!(scan.contents.packages.len(), 4);
        assert!(scan.database.partial);
        let finding = &scan.findings[0];
        assert_eq!(
            (finding.id.as_str(), finding.rating.severity),
            ("CVE-2020-14343", Severity::Critical)
        );
        assert_eq!(finding.locations[0].layer, Digest::of(&dependencies));
        assert_eq!(
            decide(&scan.findings, &Policy::default(), chrono::Utc::now()).verdict,
            Verdict::Rejected
        );
    }
}

#[tokio::test]
async fn a_layer_is_read_once_for_all_processes_that_share_a_database() {
    let (registry, pool) = (registry().await, database().await);
    let repository = unique("cached");
    let base = base();
    let code = |version: u8| Tarball::new().file("app/user_function.py", [version]).gzip();
    let first = push(&registry, &repository, Family::Oci, &[base.clone(), code(1)]).await;
    let target = Target { registry: &registry, repository: &repository, digest: first };
    let before = osv(LayerCache::new(pool.clone())).scan(target).await.unwrap();
    assert_eq!(before.contents.packages.len(), 3, "zero bytes can be stored too");

    // Another process, which could not read the base any more: its limit is below it.
    let layers = LayerCache::new(pool);
    assert_eq!(layers.get(&[Digest::of(&base)]).await.unwrap().len(), 1);
    let second = push(&registry, &repository, Family::Oci, &[base, code(2)]).await;
    let strict = Limits { layer_entries: 1, ..Limits::default() };
    let target = Target { digest: second, ..target };
    let after = osv_with(layers, strict).scan(target).await.unwrap();
    assert_eq!(after.contents, before.contents);
}

#[tokio::test]
async fn the_code_of_an_image_is_fetched_while_the_store_is_asked_for_it() {
    let (registry, pool) = (registry().await, database().await);
    let repository = unique("beside");
    let code = Tarball::new().file("app/user_function.py", "print(1)\n").gzip();
    let digest = push(&registry, &repository, Family::Oci, &[base(), code]).await;
    let osv = osv(LayerCache::new(pool.clone()));
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let told = recorder.handle();
    let _ear = metrics::set_default_local_recorder(&recorder);
    let mut held = pool.begin().await.unwrap();
    let lock = "lock table layer_indexes in access exclusive mode";
    sqlx::query(lock).execute(&mut *held).await.unwrap();
    let fetched = async {
        eventually("a layer is fetched", PATIENCE, async || {
            told.render().contains("operation=\"blob_get\"").then_some(())
        })
        .await;
        held.rollback().await.unwrap();
    };
    let target = Target { registry: &registry, repository: &repository, digest };
    let (scan, ()) = tokio::join!(osv.scan(target), fetched);
    assert_eq!(scan.unwrap().contents.packages.len(), 3);
}

#[tokio::test]
async fn a_layer_that_cannot_be_kept_fails_the_scan_and_is_kept_by_the_next() {
    let (registry, pool) = (registry().await, database().await);
    let repository = unique("kept");
    let digest = push(&registry, &repository, Family::Oci, &[base()]).await;
    let target = Target { registry: &registry, repository: &repository, digest };
    let osv = osv(LayerCache::new(pool.clone()));
    let execute = async |sql: &'static str| {
        sqlx::query(sql).execute(&pool).await.unwrap();
    };
    execute("alter table layer_indexes add constraint no_room check (false) not valid").await;
    let error = osv.scan(target).await.unwrap_err();
    assert!(matches!(error, Error::Store(_)) && error.is_transient(), "{error}");
    execute("alter table layer_indexes drop constraint no_room").await;
    osv.scan(target).await.unwrap();
    let layers = LayerCache::new(pool.clone());
    assert_eq!(layers.get(&[Digest::of(&base())]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_layer_named_twice_is_in_the_image_twice() {
    let registry = registry().await;
    let repository = unique("twice");
    let six = Tarball::new().python("six", "1.16.0").gzip();
    let gone = Tarball::new().file(".wh.opt", "").gzip();
    let digest = push(&registry, &repository, Family::Oci, &[six.clone(), gone, six]).await;
    let target = Target { registry: &registry, repository: &repository, digest };
    let scan = osv(LayerCache::in_memory()).scan(target).await.unwrap();
    assert_eq!(scan.contents.packages.len(), 1);
}

#[tokio::test]
async fn an_image_with_one_layer_that_cannot_be_read_is_not_scanned() {
    let registry = registry().await;
    let repository = unique("hostile");
    let escape = Tarball::new().file("../etc/passwd", "").gzip();
    let digest = push(&registry, &repository, Family::Oci, &[base(), escape.clone()]).await;
    let target = Target { registry: &registry, repository: &repository, digest };
    let error = osv(LayerCache::in_memory()).scan(target).await.unwrap_err();
    assert!(!error.is_transient());
    let Error::Layer { digest, source } = error else { panic!("{error}") };
    assert_eq!(digest, Digest::of(&escape));
    assert!(matches!(*source, Error::UnsafePath { .. }), "{source}");
}

#[tokio::test]
async fn what_is_not_there_or_is_no_image_is_an_error() {
    let registry = registry().await;
    let repository = unique("missing");
    let osv = osv(LayerCache::in_memory());
    let target =
        Target { registry: &registry, repository: &repository, digest: Digest::of(b"nothing") };
    let error = osv.scan(target).await.unwrap_err();
    assert!(matches!(&error, Error::Registry(source) if source.is_not_found()), "{error}");

    let image = push(&registry, &repository, Family::Oci, &[base()]).await;
    let manifest = registry.manifest(&repository, &image.to_string()).await.unwrap();
    assert!(matches!(manifest.parse().unwrap(), Content::Image { .. }));
    let json = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": [manifest.descriptor()],
    });
    let index = Manifest::new(Bytes::from(json.to_string()), media_types::OCI_INDEX);
    registry.put_manifest(&repository, &index.digest.to_string(), &index).await.unwrap();
    let error = osv.scan(Target { digest: index.digest, ..target }).await.unwrap_err();
    assert!(matches!(error, Error::NotAnImage { .. }), "{error}");
}

#[tokio::test]
async fn without_a_database_or_with_one_that_is_too_old_nothing_is_scanned() {
    let registry = registry().await;
    let repository = unique("unscanned");
    let digest = push(&registry, &repository, Family::Oci, &[base()]).await;
    let target = Target { registry: &registry, repository: &repository, digest };
    let json = r#"[{"id": "A", "modified": "2025-10-01T00:00:00Z", "affected": [
        {"package": {"ecosystem": "PyPI", "name": "other"}, "versions": ["1"]}]}]"#;
    let old = Database::of_records(json, "2025-10-02T00:00:00Z".parse().unwrap()).unwrap();
    let week = chrono::Duration::days(7);
    let nowhere = Some("/nowhere/advisories.db".into());
    for advisories in [Advisories::fixed(old, week), Advisories::new(nowhere, week).unwrap()] {
        let osv = Osv::new(
            advisories,
            LayerCache::in_memory(),
            Limits::default(),
            Duration::from_secs(60),
        );
        let error = osv.scan(target).await.unwrap_err();
        assert!(matches!(error, Error::Advisories(_)) && error.is_transient(), "{error}");
        assert!(osv.check().is_err(), "the service isn't ready");
    }
}
