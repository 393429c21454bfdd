//! The publisher's handler on a real registry and a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on fails")]

use bytes::Bytes;
use mecapy_bus::{Delivery, Handler as _, HandlerError};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::{ScanDone, Verdict};
use mecapy_proto::{BuildId, FunctionId};
use mecapy_publisher::{Broom, Publish};
use mecapy_registry::{Copier, Digest, Manifest, Options, Registry, media_types};
use mecapy_service::Secret;
use mecapy_store::builds::Built;
use mecapy_store::functions::NewVersion;
use mecapy_store::scans::NewScan;
use mecapy_store::{BuildState, PgPool, builds, functions, scans};
use mecapy_testkit::{Infra, RegistryServer, unique};
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::task::TaskTracker;

mod attached;
mod away;
mod bases;
mod deaths;
mod lies;
mod proxy;
mod staging;

struct World {
    pool: PgPool,
    /// Where it is, for a service that connects itself.
    postgres: mecapy_store::Options,
    s3: mecapy_objects::Options,
    objects: Objects,
    registry: Registry,
    server: RegistryServer,
    publish: Publish,
    function: FunctionId,
    owner: String,
}

fn options(server: &RegistryServer, password: &str) -> Options {
    Options {
        host: server.host.clone(),
        plain_http: true,
        username: Some(server.username.clone()),
        password: Some(Secret::new(password)),
        ..Options::default()
    }
}

fn registry(server: &RegistryServer, password: &str) -> Registry {
    Registry::new(&options(server, password)).unwrap()
}

/// What this thread counts, for as long as the guard is kept.
fn hear() -> (PrometheusHandle, LocalRecorderGuard<'static>) {
    let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
    (recorder.handle(), metrics::set_default_local_recorder(recorder))
}

impl World {
    async fn new() -> Self {
        let infra = Infra::shared().await;
        let postgres = mecapy_store::Options { url: infra.postgres().await, ..Default::default() };
        let pool = mecapy_store::connect(&postgres).await.unwrap();
        mecapy_store::migrate(&pool).await.unwrap();
        let bucket = infra.s3().await;
        let s3 = mecapy_objects::Options {
            endpoint: Some(bucket.endpoint),
            region: bucket.region,
            bucket: bucket.bucket,
            access_key: bucket.access_key,
            secret_key: Secret::new(bucket.secret_key),
        };
        let objects = Objects::new(&s3);
        objects.ensure_bucket().await.unwrap();
        let server = infra.primary();
        let registry = registry(&server, &server.password);
        let owner: String = unique("o").chars().filter(char::is_ascii_alphanumeric).collect();
        let mut conn = pool.acquire().await.unwrap();
        let function = functions::ensure(&mut conn, &owner.parse().unwrap(), "f").await.unwrap();
        let publish = Publish {
            pool: pool.clone(),
            objects: objects.clone(),
            staging: Broom {
                pool: pool.clone(),
                staging: registry.clone(),
                sweeping: TaskTracker::new(),
            },
            primary: Copier::new(registry.clone()),
            fallback: None,
        };
        Self { pool, postgres, s3, objects, registry, server, publish, function, owner }
    }

    fn staging(&self) -> String {
        format!("mecapy/staging/user-{}-func-{}", self.owner, self.function)
    }

    fn published(&self) -> String {
        format!("mecapy/functions/user-{}-func-{}", self.owner, self.function)
    }

    /// An image that nobody else has.
    async fn staged(&self, repository: &str, content: &str) -> Manifest {
        let put = async |text: String| {
            self.registry.put_blob(repository, Bytes::from(text)).await.unwrap()
        };
        let config = put(format!("{{\"v\":{content:?}}}")).await;
        let layer = put(format!("layer {content}")).await;
        let raw = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_types::OCI_MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": config.size },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size }],
        });
        let manifest = Manifest::new(Bytes::from(raw.to_string()), media_types::OCI_MANIFEST);
        let digest = manifest.digest.to_string();
        self.registry.put_manifest(repository, &digest, &manifest).await.unwrap();
        manifest
    }

    /// An image in staging, and its build waiting to be published.
    async fn scanned(&self, version: u32) -> ScanDone {
        let manifest = self.staged(&self.staging(), &version.to_string()).await;
        let tag = format!("v{version}-00000000");
        let digest = manifest.digest.to_string();
        let image = format!("{}/{}@{digest}", self.server.host, self.staging());

        let mut conn = self.pool.acquire().await.unwrap();
        let new = NewVersion {
            python_version: "3.11".into(),
            base_variant: "slim".into(),
            requirements: String::new(),
            inputs_sha256: version.to_string(),
        };
        functions::add_version(&mut conn, self.function, version, &new).await.unwrap();
        let build = BuildId::new();
        builds::create(&mut conn, build, self.function, version).await.unwrap();
        self.to_publishing(build, &image, &digest, &tag).await;
        ScanDone {
            base: String::new(),
            build_id: build.to_string(),
            function_id: self.function.get(),
            owner: self.owner.clone(),
            version,
            image,
            digest,
            tag,
            verdict: Verdict::Passed.into(),
            ..Default::default()
        }
    }

    async fn to_publishing(&self, build: BuildId, image: &str, digest: &str, tag: &str) {
        builds::start(&self.pool, build).await.unwrap();
        let built = Built {
            staging_image: image.to_owned(),
            digest: digest.to_owned(),
            tag: tag.to_owned(),
            size_bytes: 2_000,
            dependency_image: image.to_owned(),
            lock_key: None,
            log_key: format!("logs/{build}"),
            duration_ms: 3_000,
        };
        let mut conn = self.pool.acquire().await.unwrap();
        builds::built(&mut conn, build, &built).await.unwrap();
        builds::scanned(&mut conn, build, digest, true).await.unwrap();
    }

    async fn record(&self, event: &ScanDone, passed: bool) {
        let build: BuildId = event.build_id.parse().unwrap();
        let (report, sbom) = (Key::scan_report(build), Key::sbom(build));
        for key in [&report, &sbom, &Key::sarif(build)] {
            self.objects.put(key, Bytes::from(format!("{{\"is\":\"{key}\"}}"))).await.unwrap();
        }
        let scan = NewScan {
            digest: event.digest.clone(),
            engine: "osv".into(),
            engine_version: "1".into(),
            database_version: "1".into(),
            database_partial: false,
            passed,
            critical: 0,
            high: 0,
            medium: 0,
            low: 0,
            unknown: 0,
            findings: serde_json::json!([]),
            report_key: report.to_string(),
            sbom_key: sbom.to_string(),
            duration_ms: 1,
        };
        let mut conn = self.pool.acquire().await.unwrap();
        scans::insert(&mut conn, build, &scan).await.unwrap();
    }

    async fn handle(&self, event: &ScanDone) -> Result<(), HandlerError> {
        self.handle_again(event, 1).await
    }

    async fn handle_again(&self, event: &ScanDone, count: u64) -> Result<(), HandlerError> {
        let delivery = Delivery::new("m", count, Default::default());
        let outcome = self.publish.handle(event.clone(), &delivery).await?;
        let mut transaction = self.pool.begin().await.unwrap();
        outcome.apply(&mut transaction).await.unwrap();
        transaction.commit().await.unwrap();
        Ok(())
    }

    async fn build(&self, event: &ScanDone) -> builds::Build {
        builds::get(&self.pool, event.build_id.parse().unwrap()).await.unwrap().unwrap()
    }

    async fn tag(&self, tag: &str) -> Option<Digest> {
        self.registry.resolve(&self.published(), tag).await.unwrap().map(|there| there.digest)
    }
}

#[tokio::test]
async fn what_passed_is_published_under_its_digest_and_both_tags() {
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    world.handle(&event).await.unwrap();
    let build = world.build(&event).await;
    assert_eq!(build.state, BuildState::Ready);
    assert!(build.docker_image.unwrap().ends_with(&format!(":{}@{}", event.tag, event.digest)));
    let digest = Some(event.digest.parse().unwrap());
    assert_eq!(world.tag(&event.tag).await, digest);
    assert_eq!(world.tag("latest").await, digest);
    world.handle(&event).await.unwrap();
    assert_eq!(world.build(&event).await.state, BuildState::Ready);
}

#[tokio::test]
async fn the_function_says_what_it_runs_and_how_that_was_built_once_it_is_published() {
    type Row = (Option<String>, Option<i64>, Option<i64>, Option<String>, Option<String>);
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    let row = async || -> Row {
        sqlx::query_as(
            "select docker_image, image_size, build_duration_ms, build_status, build_logs_s3_key
             from functions where id = $1",
        )
        .bind(world.function.get())
        .fetch_one(&world.pool)
        .await
        .unwrap()
    };
    let before = row().await;
    assert_eq!((before.0, before.1, before.2), (None, None, None));
    world.handle(&event).await.unwrap();
    let (image, size, duration, status, log) = row().await;
    let build = world.build(&event).await;
    assert!(image.is_some() && image == build.docker_image);
    assert_eq!((size, duration), (Some(2_000), Some(3_000)));
    assert_eq!(status.as_deref(), Some("ready"));
    assert_eq!(log, Some(format!("logs/{}", event.build_id)));
}

#[tokio::test]
async fn latest_stays_with_the_newer_version_that_was_first() {
    let world = World::new().await;
    let (older, newer) = (world.scanned(1).await, world.scanned(2).await);
    for event in [&newer, &older] {
        world.record(event, true).await;
        world.handle(event).await.unwrap();
    }
    assert_eq!(world.tag("latest").await, Some(newer.digest.parse().unwrap()));
    assert_eq!(world.tag(&older.tag).await, Some(older.digest.parse().unwrap()));
}

#[tokio::test]
async fn latest_stays_with_the_newer_version_that_is_not_on_record_yet() {
    let world = World::new().await;
    let (older, newer) = (world.scanned(1).await, world.scanned(2).await);
    for event in [&newer, &older] {
        world.record(event, true).await;
    }
    // Its outcome is not written yet when the older one comes to its end.
    let delivery = Delivery::new("m", 1, Default::default());
    let pending = world.publish.handle(newer.clone(), &delivery).await.unwrap();
    world.handle(&older).await.unwrap();
    assert_eq!(world.tag("latest").await, Some(newer.digest.parse().unwrap()));
    drop(pending);
}

#[tokio::test]
async fn versions_published_at_once_leave_latest_with_the_newest() {
    let world = World::new().await;
    let mut events = Vec::new();
    for version in 1..=6 {
        events.push(world.scanned(version).await);
        world.record(events.last().unwrap(), true).await;
    }
    let handled = futures::future::join_all(events.iter().rev().map(|event| world.handle(event)));
    assert!(handled.await.iter().all(Result::is_ok));
    assert_eq!(world.tag("latest").await, Some(events[5].digest.parse().unwrap()));
}

#[tokio::test]
async fn what_has_no_passed_scan_on_record_is_never_published() {
    let world = World::new().await;
    let (unscanned, rejected) = (world.scanned(1).await, world.scanned(2).await);
    world.record(&rejected, false).await;
    for event in [&unscanned, &rejected] {
        world.handle(event).await.unwrap();
        let build = world.build(event).await;
        assert_eq!(build.state, BuildState::Failed);
        assert_eq!(build.failure().unwrap().code, "not-scanned");
        assert_eq!(world.tag(&event.tag).await, None);
    }
}

#[tokio::test]
async fn an_event_about_another_image_than_the_builds_is_a_dead_letter() {
    let world = World::new().await;
    let (event, other) = (world.scanned(1).await, world.scanned(2).await);
    world.record(&event, true).await;
    let forged =
        ScanDone { digest: other.digest.clone(), image: other.image.clone(), ..event.clone() };
    let refused = world.handle(&forged).await;
    assert!(matches!(refused, Err(HandlerError::Permanent(_))), "{refused:?}");
    assert_eq!(world.build(&event).await.state, BuildState::Publishing);
}

#[tokio::test]
async fn wrong_credentials_fail_the_build_and_an_absent_registry_does_not() {
    let mut world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    let nowhere = Options { host: "127.0.0.1:9".into(), plain_http: true, ..Options::default() };
    world.publish.primary = Copier::new(Registry::new(&nowhere).unwrap());
    let away = world.handle(&event).await;
    assert!(matches!(away, Err(HandlerError::Transient(_))), "{away:?}");
    assert_eq!(world.build(&event).await.state, BuildState::Publishing);

    // What the alert goes by.
    let (told, _ear) = hear();
    world.publish.primary = Copier::new(registry(&world.server, "wrong"));
    for _ in 0..2 {
        world.handle(&event).await.unwrap();
    }
    let refused = "mecapy_publish_failures_total{code=\"registry-unauthorized\"} 1\n";
    assert!(told.render().contains(refused), "{}", told.render());
    let build = world.build(&event).await;
    assert_eq!(
        (build.state, build.failure().unwrap().code.as_str()),
        (BuildState::Failed, "registry-unauthorized")
    );
}
