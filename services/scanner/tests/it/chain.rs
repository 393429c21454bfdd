//! The whole stage: `build.done` in, the record, the reports and `scan.done` out.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mecapy_bus::topology::{self, Durable};
use mecapy_bus::{
    Bus, Consumer, ConsumerOptions, Delivery, Handler, HandlerError, Outbox, Outcome, Outgoing,
    dead_letters,
};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::{BuildDone, ScanDone, Verdict};
use mecapy_proto::{BuildId, Event};
use mecapy_registry::{Digest, ImageRef, Registry};
use mecapy_scanner::layer::Limits;
use mecapy_scanner::policy::{Policies, Policy};
use mecapy_scanner::{Advisories, LayerCache, Osv, Report, Scanner};
use mecapy_service::{Health, Secret};
use mecapy_store::builds::{self, Build, Built};
use mecapy_store::functions::{self, Added, NewVersion};
use mecapy_store::{BuildState, PgPool, bases, scans};
use mecapy_testkit::{Infra, eventually, unique};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::images::{Family, database, osv, push, registry};
use crate::tarball::Tarball;

/// Far more than anything here takes: what passes it hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The scanner, and who listens to it.
pub struct Stage {
    bus: Bus,
    nats: mecapy_bus::Options,
    pub pool: PgPool,
    /// The scanner's.
    pub outbox: Outbox,
    builder: Outbox,
    registry: Registry,
    objects: Objects,
    heard: Heard,
    _stop: DropGuard,
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<ScanDone>>>);

impl Handler<ScanDone> for Heard {
    async fn handle(&self, event: ScanDone, _: &Delivery) -> Result<Outcome, HandlerError> {
        self.0.lock().unwrap().push(event);
        Ok(Outcome::nothing())
    }
}

impl Stage {
    pub async fn start() -> Self {
        let infra = Infra::shared().await;
        let account = infra.nats().await;
        let nats = mecapy_bus::Options {
            url: account.url,
            user: Some(account.user),
            password: Some(Secret::new(account.password)),
        };
        let s3 = infra.s3().await;
        let objects = Objects::new(&mecapy_objects::Options {
            endpoint: Some(s3.endpoint),
            region: s3.region,
            bucket: s3.bucket,
            access_key: s3.access_key,
            secret_key: Secret::new(s3.secret_key),
        });
        objects.ensure_bucket().await.unwrap();
        let bus = Bus::connect_now("test", &nats).await.unwrap();
        // Once more where the server answers late: what is there already stays.
        eventually("NATS is set up", PATIENCE, async || {
            topology::setup(&bus, &topology::Setup::default()).await.ok()
        })
        .await;
        let (pool, registry, stop) = (database().await, registry().await, CancellationToken::new());
        let outbox = |service| Outbox::start(bus.clone(), pool.clone(), service, stop.clone());
        let scanner = Scanner {
            engine: Arc::new(osv(LayerCache::new(pool.clone()))),
            policies: Policies::new(Policy::default()),
            code_scanning: None,
            staging: registry.clone(),
            objects: objects.clone(),
            pool: pool.clone(),
        };
        let heard = Heard::default();
        let of_scanner = outbox("scanner");
        consume::<BuildDone>(topology::SCANNER, scanner, of_scanner.clone(), &stop);
        consume::<ScanDone>(topology::PUBLISHER, heard.clone(), outbox("publisher"), &stop);
        let builder = outbox("builder");
        let _stop = stop.drop_guard();
        Self { bus, nats, pool, outbox: of_scanner, builder, registry, objects, heard, _stop }
    }

    /// Messages of a subject from now on.
    pub async fn subscribe(&self, subject: &'static str) -> async_nats::Subscriber {
        let (user, password) = (self.nats.user.clone(), self.nats.password.clone());
        let options = async_nats::ConnectOptions::with_user_and_password(
            user.unwrap(),
            password.unwrap().expose().to_owned(),
        );
        let client = options.connect(&self.nats.url).await.unwrap();
        let subscriber = client.subscribe(subject).await.unwrap();
        client.flush().await.unwrap();
        subscriber
    }

    /// A build that has left this image in staging: its id, and the event that says so.
    pub async fn built(&self, layers: &[Vec<u8>]) -> (BuildId, BuildDone) {
        let repository = unique("staging");
        let digest = push(&self.registry, &repository, Family::Oci, layers).await;
        let id = BuildId::new();
        let mut conn = self.pool.acquire().await.unwrap();
        let function =
            functions::ensure(&mut conn, &"anna".parse().unwrap(), &unique("f")).await.unwrap();
        let new = NewVersion {
            python_version: "3.11".into(),
            base_variant: "slim".into(),
            requirements: String::new(),
            inputs_sha256: "0".into(),
        };
        let Added::Version(version) =
            functions::add_version(&mut conn, function, 0, &new).await.unwrap()
        else {
            panic!("no version")
        };
        builds::create(&mut conn, id, function, version).await.unwrap();
        let event = self.left(id, repository, digest).await;
        let event =
            BuildDone { function_id: function.get(), owner: "anna".into(), version, ..event };
        (id, event)
    }

    /// The build's image is in staging: the event that says so, but for whose it is.
    async fn left(&self, id: BuildId, repository: String, digest: Digest) -> BuildDone {
        let image = ImageRef::new(self.registry.host(), repository).with_digest(digest).to_string();
        builds::start(&self.pool, id).await.unwrap();
        let built = Built {
            staging_image: image.clone(),
            digest: digest.to_string(),
            tag: "v1-00000000".into(),
            size_bytes: 1,
            dependency_image: image.clone(),
            lock_key: None,
            log_key: "logs/x".into(),
            duration_ms: 1,
        };
        let mut conn = self.pool.acquire().await.unwrap();
        assert!(builds::built(&mut conn, id, &built).await.unwrap());
        BuildDone {
            build_id: id.to_string(),
            image,
            digest: digest.to_string(),
            tag: built.tag,
            size_bytes: 1,
            ..BuildDone::default()
        }
    }

    pub async fn publish(&self, event: &impl Event) {
        let mut transaction = self.pool.begin().await.unwrap();
        let written = self.builder.write(&mut transaction, Outgoing::event(event)).await.unwrap();
        transaction.commit().await.unwrap();
        self.builder.send(written).await;
    }

    pub async fn build_in(&self, id: BuildId, state: BuildState) -> Build {
        eventually("the build moved on", PATIENCE, async || {
            let build = builds::get(&self.pool, id).await.unwrap()?;
            (build.state == state).then_some(build)
        })
        .await
    }

    pub async fn scan_done(&self, id: BuildId) -> ScanDone {
        eventually("scan.done came", PATIENCE, async || {
            self.heard
                .0
                .lock()
                .unwrap()
                .iter()
                .find(|event| event.build_id == id.to_string())
                .cloned()
        })
        .await
    }

    async fn object(&self, key: &Key) -> serde_json::Value {
        let bytes = self.objects.get(key, 10 << 20).await.unwrap().expect("the object is there");
        serde_json::from_slice(&bytes).unwrap()
    }
}

fn consume<E: Event>(
    durable: Durable,
    handler: impl Handler<E>,
    outbox: Outbox,
    stop: &CancellationToken,
) {
    let options = ConsumerOptions { durable, concurrency: 4 };
    let consumer = Consumer::new(options, handler, outbox, Health::default().condition("consumer"));
    tokio::spawn(consumer.run::<E>(stop.clone(), stop.clone()));
}

#[tokio::test]
async fn an_image_without_a_critical_passes_and_its_reports_are_kept() {
    let stage = Stage::start().await;
    let layer = Tarball::new().python("setuptools", "65.5.1").python("six", "1.16.0").gzip();
    let (id, event) = stage.built(&[layer]).await;
    stage.publish(&event).await;

    let done = stage.scan_done(id).await;
    assert_eq!(done.verdict(), Verdict::Passed);
    assert_eq!((&done.digest, &done.image, &done.tag), (&event.digest, &event.image, &event.tag));
    assert_eq!(done.counts.unwrap().high, 2);
    assert!(done.database_partial && done.engine == "osv");
    assert_eq!(done.findings[0].package, "setuptools");
    stage.build_in(id, BuildState::Publishing).await;
    assert!(
        scans::passed(
            &stage.pool,
            &done.digest,
            mecapy_proto::FunctionId::new(done.function_id).unwrap()
        )
        .await
        .unwrap()
    );

    let report = stage.object(&Key::scan_report(id)).await;
    let report: Report = serde_json::from_value(report).unwrap();
    assert_eq!(report.decision.warnings[0], "setuptools 65.5.1 has HIGH CVE-2024-6345");
    assert_eq!(stage.object(&Key::sbom(id)).await["specVersion"], "1.5");
    assert_eq!(stage.object(&Key::sarif(id)).await["version"], "2.1.0");
}

#[tokio::test]
async fn a_base_image_is_scanned_as_any_other_and_its_rejection_ends_its_run() {
    let stage = Stage::start().await;
    for (package, version, verdict, state) in [
        ("six", "1.16.0", Verdict::Passed, BuildState::Publishing),
        ("h11", "0.14.0", Verdict::Rejected, BuildState::Rejected),
    ] {
        let id = BuildId::new();
        let cells = [(id, "3.11-slim".to_owned())];
        let mut conn = stage.pool.acquire().await.unwrap();
        assert!(bases::create_run(&mut conn, package, "manual", &cells).await.unwrap());
        let layer = Tarball::new().python(package, version).gzip();
        let repository = unique("staging");
        let digest = push(&stage.registry, &repository, Family::Oci, &[layer]).await;
        let event = stage.left(id, repository, digest).await;
        stage.publish(&BuildDone { base: "3.11-slim".into(), ..event }).await;

        let done = stage.scan_done(id).await;
        assert_eq!((done.verdict(), done.base.as_str()), (verdict, "3.11-slim"));
        assert_eq!((done.function_id, done.owner.as_str(), done.version), (0, "", 0));
        stage.build_in(id, state).await;
        assert_eq!(stage.object(&Key::sarif(id)).await["version"], "2.1.0");
        let run = bases::run(&stage.pool, package).await.unwrap().unwrap();
        assert_eq!(run.ended_at.is_some(), verdict == Verdict::Rejected);
    }
}

#[tokio::test]
async fn an_image_with_a_critical_is_rejected_and_has_no_passed_scan() {
    let stage = Stage::start().await;
    let (id, event) = stage.built(&[Tarball::new().python("h11", "0.14.0").gzip()]).await;
    stage.publish(&event).await;
    let done = stage.scan_done(id).await;
    assert_eq!(done.verdict(), Verdict::Rejected);
    assert_eq!(done.findings[0].fixed_version, "0.16.0");
    stage.build_in(id, BuildState::Rejected).await;
    assert!(
        !scans::passed(
            &stage.pool,
            &done.digest,
            mecapy_proto::FunctionId::new(done.function_id).unwrap()
        )
        .await
        .unwrap()
    );
}

#[tokio::test]
async fn a_build_that_is_announced_twice_is_scanned_once() {
    let stage = Stage::start().await;
    let (id, event) = stage.built(&[Tarball::new().python("six", "1.16.0").gzip()]).await;
    stage.publish(&event).await;
    stage.scan_done(id).await;
    let first = scans::get(&stage.pool, id).await.unwrap().unwrap();
    // Past the duplicate window and the inbox it would look like this: another message about the same build.
    let (other, other_event) = stage.built(&[Tarball::new().python("six", "1.15.0").gzip()]).await;
    stage.publish(&event).await;
    stage.publish(&other_event).await;
    stage.scan_done(other).await;
    let heard =
        stage.heard.0.lock().unwrap().iter().filter(|done| done.build_id == id.to_string()).count();
    assert_eq!(heard, 1);
    assert_eq!(scans::get(&stage.pool, id).await.unwrap().unwrap().scanned_at, first.scanned_at);
}

#[tokio::test]
async fn an_image_that_cannot_be_scanned_fails_and_never_passes() {
    let stage = Stage::start().await;
    let (id, event) = stage.built(&[Tarball::new().file("../../etc/shadow", "").gzip()]).await;
    stage.publish(&event).await;
    let failure = stage.build_in(id, BuildState::Failed).await.failure().unwrap();
    assert_eq!(failure.code, "scan-failed");
    assert!(failure.message.contains("leads out of the image"), "{}", failure.message);
    assert!(scans::get(&stage.pool, id).await.unwrap().is_none());

    let (id, mut event) = stage.built(&[Tarball::new().gzip()]).await;
    event.image = event.image.replace("staging", "nowhere");
    stage.publish(&event).await;
    let failure = stage.build_in(id, BuildState::Failed).await.failure().unwrap();
    assert_eq!(failure.code, "scan-failed");
}

#[tokio::test]
async fn a_scan_that_may_go_better_later_is_tried_again_and_at_last_has_failed() {
    let stage = Stage::start().await;
    let (id, event) = stage.built(&[Tarball::new().python("six", "1.16.0").gzip()]).await;
    let (week, limits) = (chrono::Duration::days(7), Limits::default());
    let none = Advisories::new(Some("/nowhere/advisories.db".into()), week).unwrap();
    let scanner = Scanner {
        engine: Arc::new(Osv::new(none, LayerCache::in_memory(), limits, PATIENCE)),
        policies: Policies::new(Policy::default()),
        code_scanning: None,
        staging: stage.registry.clone(),
        objects: stage.objects.clone(),
        pool: stage.pool.clone(),
    };
    let handle = async |count| {
        let delivery = Delivery::new("m", count, Default::default());
        scanner.handle(event.clone(), &delivery).await
    };
    for count in [1, topology::MAX_DELIVERIES - 2] {
        let later = handle(count).await;
        assert!(matches!(later, Err(HandlerError::Transient(_))), "{count}: {later:?}");
        stage.build_in(id, BuildState::Scanning).await;
    }
    let ended = handle(topology::MAX_DELIVERIES - 1).await.unwrap();
    let mut transaction = stage.pool.begin().await.unwrap();
    ended.apply(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let failure = stage.build_in(id, BuildState::Failed).await.failure().unwrap();
    assert_eq!(failure.code, "scan-failed");
    assert!(scans::get(&stage.pool, id).await.unwrap().is_none());
}

#[tokio::test]
async fn an_event_about_another_image_than_the_builds_is_a_dead_letter() {
    let stage = Stage::start().await;
    let (id, mut event) = stage.built(&[Tarball::new().python("six", "1.16.0").gzip()]).await;
    event.digest = Digest::of(b"another").to_string();
    stage.publish(&event).await;
    eventually("it is a dead letter", PATIENCE, async || {
        (dead_letters::count(&stage.bus).await.unwrap() == 1).then_some(())
    })
    .await;
    stage.build_in(id, BuildState::Scanning).await;
    assert!(scans::get(&stage.pool, id).await.unwrap().is_none());
}
