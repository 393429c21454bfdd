//! Functions with published images, and mirrors that run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use mecapy_bus::{Bus, topology};
use mecapy_mirror::{BASE_REPOSITORY, Config};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::MirrorRequested;
use mecapy_proto::{BuildId, FunctionId};
use mecapy_registry::{Digest, Manifest, Options, Registry, media_types};
use mecapy_service::{Context, Health, Secret};
use mecapy_store::builds::Built;
use mecapy_store::functions::{Added, NewVersion};
use mecapy_store::mirror_runs::{self, Image, Outcome, Run, Totals};
use mecapy_store::{PgPool, builds, functions, usage};
use mecapy_testkit::{Infra, Nats, RegistryServer, S3, eventually, unique};
use tokio_util::sync::{CancellationToken, DropGuard};

pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub pool: PgPool,
    pub bus: Bus,
    pub primary: Registry,
    pub fallback: Registry,
    pub objects: Objects,
    /// `mirror.done` that went by.
    done: Arc<AtomicUsize>,
    /// `mirror.image` that went by.
    asked: Arc<AtomicUsize>,
    pub config: Config,
    owner: String,
    /// A base variant that no other test has.
    variant: String,
    _ear: DropGuard,
}

/// A published version.
#[derive(Clone)]
pub struct Published {
    pub function: FunctionId,
    pub build: BuildId,
    pub repository: String,
    pub digest: Digest,
    pub tag: String,
}

pub fn registry_options(server: &RegistryServer) -> Options {
    Options {
        host: server.host.clone(),
        plain_http: true,
        username: Some(server.username.clone()),
        password: Some(Secret::new(server.password.clone())),
        ..Options::default()
    }
}

fn nats_options(account: &Nats) -> mecapy_bus::Options {
    mecapy_bus::Options {
        url: account.url.clone(),
        user: Some(account.user.clone()),
        password: Some(Secret::new(account.password.clone())),
    }
}

fn s3_options(s3: &S3) -> mecapy_objects::Options {
    mecapy_objects::Options {
        endpoint: Some(s3.endpoint.clone()),
        region: s3.region.clone(),
        bucket: s3.bucket.clone(),
        access_key: s3.access_key.clone(),
        secret_key: Secret::new(s3.secret_key.clone()),
    }
}

impl World {
    pub async fn new() -> Self {
        Self::on(Infra::shared().await).await
    }

    pub async fn on(infra: &Infra) -> Self {
        let account = infra.nats().await;
        let postgres = mecapy_store::Options { url: infra.postgres().await, ..Default::default() };
        let pool = mecapy_store::connect(&postgres).await.unwrap();
        mecapy_store::migrate(&pool).await.unwrap();
        let nats = nats_options(&account);
        let bus = Bus::connect_now("test", &nats).await.unwrap();
        // Once more where the server answers late: what is there already stays.
        eventually("NATS is set up", PATIENCE, async || {
            topology::setup(&bus, &topology::Setup::default()).await.ok()
        })
        .await;
        let s3 = s3_options(&infra.s3().await);
        let objects = Objects::new(&s3);
        objects.ensure_bucket().await.unwrap();

        let mut config = Config { nats, postgres, s3, ..Config::default() };
        config.registries.primary = registry_options(&infra.primary());
        config.registries.fallback = Some(registry_options(&infra.fallback()));
        config.mirror.schedule = None;
        let alphanumeric =
            |name: String| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let ear = CancellationToken::new();
        let done = hear(&account, "mirror.done", ear.clone()).await;
        let asked = hear(&account, "mirror.image", ear.clone()).await;
        Self {
            primary: config.registries.primary().unwrap(),
            fallback: config.registries.fallback().unwrap().unwrap(),
            pool,
            bus,
            objects,
            done,
            asked,
            config,
            owner: alphanumeric(unique("o")),
            variant: alphanumeric(unique("slim")),
            _ear: ear.drop_guard(),
        }
    }

    pub fn start(&self) -> Replica {
        Replica::start(self.config.clone())
    }

    pub async fn function(&self) -> FunctionId {
        let mut conn = self.pool.acquire().await.unwrap();
        functions::ensure(&mut conn, &self.owner.parse().unwrap(), &unique("f")).await.unwrap()
    }

    /// A published version of a function, with these layers and a config of its own.
    pub async fn publish(&self, function: FunctionId, layers: &[Bytes]) -> Published {
        let mut conn = self.pool.acquire().await.unwrap();
        let new = NewVersion {
            python_version: "3.11".into(),
            base_variant: self.variant.clone(),
            requirements: String::new(),
            inputs_sha256: unique("inputs"),
        };
        let added = functions::add_version(&mut conn, function, 0, &new).await.unwrap();
        let Added::Version(version) = added else { panic!("{added:?}") };
        let repository = format!("mecapy/functions/user-{}-func-{function}", self.owner);
        let tag = format!("v{version}-00000000");
        let own = format!(
            "{{\"function\":\"{function}\",\"version\":{version},\"of\":\"{}\"}}",
            self.owner
        );
        let digest = push(&self.primary, &repository, &[&tag, "latest"], own, layers).await;
        let image = format!("{}/{repository}:{tag}@{digest}", self.primary.host());

        let build = BuildId::new();
        builds::create(&mut conn, build, function, version).await.unwrap();
        builds::start(&self.pool, build).await.unwrap();
        let built = Built {
            staging_image: image.clone(),
            digest: digest.to_string(),
            tag: tag.clone(),
            size_bytes: 1_000,
            // The same layers but the last: the same dependency image.
            dependency_image: layers
                .iter()
                .rev()
                .skip(1)
                .map(|layer| Digest::of(layer).to_string())
                .collect(),
            ..self.built()
        };
        assert!(builds::built(&mut conn, build, &built).await.unwrap());
        assert!(builds::scanned(&mut conn, build, &digest.to_string(), true).await.unwrap());
        assert!(builds::published(&mut conn, build, &image).await.unwrap());
        Published { function, build, repository, digest, tag }
    }

    fn built(&self) -> Built {
        Built {
            staging_image: String::new(),
            digest: String::new(),
            tag: String::new(),
            size_bytes: 0,
            dependency_image: String::new(),
            lock_key: None,
            log_key: String::new(),
            duration_ms: 1,
        }
    }

    /// Runs a published image so often, today.
    pub async fn used(&self, image: &Published, tasks: usize) {
        let mut conn = self.pool.acquire().await.unwrap();
        for _ in 0..tasks {
            usage::count(&mut conn, &image.digest.to_string(), image.function).await.unwrap();
        }
    }

    /// The base image of this world, under its tag and a dated one.
    pub async fn base(&self, layers: &[Bytes]) -> (Digest, [String; 2]) {
        let tag = format!("3.11-{}", self.variant);
        let tags = [tag.clone(), format!("{tag}-2026-11-25")];
        let config = format!("{{\"base\":\"{tag}\"}}");
        let named = [tags[0].as_str(), tags[1].as_str()];
        (push(&self.primary, BASE_REPOSITORY, &named, config, layers).await, tags)
    }

    pub async fn request(&self, request: MirrorRequested) -> String {
        let run = unique("run");
        self.bus.publish(&MirrorRequested { run_id: run.clone(), ..request }).await.unwrap();
        run
    }

    /// Asks for a run and waits for its end.
    pub async fn run(&self, request: MirrorRequested) -> (Run, Totals) {
        let run = self.request(request).await;
        self.ended(&run).await
    }

    pub async fn ended(&self, run: &str) -> (Run, Totals) {
        let ended = eventually(&format!("{run} has ended"), PATIENCE, async || {
            mirror_runs::get(&self.pool, run).await.unwrap().filter(Run::has_ended)
        })
        .await;
        (ended, mirror_runs::totals(&self.pool, run).await.unwrap())
    }

    pub async fn image(&self, run: &Run, image: &Published) -> Option<Image> {
        let digest = image.digest.to_string();
        mirror_runs::image(&self.pool, &run.id, &image.repository, &digest).await.unwrap()
    }

    pub async fn outcome(&self, run: &Run, image: &Published) -> Option<Outcome> {
        self.image(run, image).await.unwrap().outcome().unwrap()
    }

    pub async fn report(&self, run: &Run, name: &str) -> String {
        let key = Key::mirror_report(&run.id, name);
        let bytes = eventually("the report is there", PATIENCE, async || {
            self.objects.get(&key, 1 << 20).await.unwrap()
        })
        .await;
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// Where a tag of the fallback leads.
    pub async fn there(&self, repository: &str, tag: &str) -> Option<Digest> {
        self.fallback.resolve(repository, tag).await.unwrap().map(|there| there.digest)
    }

    /// Sees that so many `mirror.done` went by. They may be heard after their run was seen to have ended.
    pub async fn heard_done(&self, count: usize) {
        heard(&self.done, "mirror.done", count).await;
    }

    /// The same for `mirror.image`.
    pub async fn heard_asked(&self, count: usize) {
        heard(&self.asked, "mirror.image", count).await;
    }
}

async fn heard(counter: &AtomicUsize, subject: &str, count: usize) {
    eventually(&format!("{count} of {subject}"), PATIENCE, async || {
        (counter.load(Ordering::SeqCst) >= count).then_some(())
    })
    .await;
    assert_eq!(counter.load(Ordering::SeqCst), count, "more than {count} of {subject}");
}

/// A mirror with threads of its own, so that it can be gone from one moment to the next. Dropped, it stops in order.
pub struct Replica {
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Replica {
    pub fn start(config: Config) -> Self {
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let replica = Self { stop: stop.clone(), kill: kill.clone() };
        let context = Context {
            service: "mirror",
            replica: unique("replica"),
            health: Health::default(),
            shutdown: stop.clone(),
            hand_back: stop,
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    ended = mecapy_mirror::run(config, context) => ended.unwrap(),
                    () = kill.cancelled() => {}
                }
            });
            runtime.shutdown_background();
        });
        replica
    }

    /// As by `kill -9`: nothing is said to anybody.
    pub fn die(&self) {
        self.kill.cancel();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Bytes that no other test has.
pub fn layer(size: usize) -> Bytes {
    let mut state = unique("layer").into_bytes();
    let mut bytes = Vec::with_capacity(size + 64);
    while bytes.len() < size {
        state = Digest::of(&state).hex().into_bytes();
        bytes.extend_from_slice(&state);
    }
    bytes.truncate(size);
    bytes.into()
}

async fn push(
    registry: &Registry,
    repository: &str,
    tags: &[&str],
    config: String,
    layers: &[Bytes],
) -> Digest {
    let config = registry.put_blob(repository, config.into()).await.unwrap();
    let mut named = Vec::new();
    for layer in layers {
        let layer = registry.put_blob(repository, layer.clone()).await.unwrap();
        named.push(serde_json::json!({
            "mediaType": media_types::OCI_LAYER_GZIP, "digest": layer.digest, "size": layer.size,
        }));
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_types::OCI_MANIFEST,
        "config": { "mediaType": media_types::OCI_CONFIG, "digest": config.digest, "size": config.size },
        "layers": named,
    });
    let manifest = Manifest::new(manifest.to_string().into(), media_types::OCI_MANIFEST);
    for tag in tags {
        registry.put_manifest(repository, tag, &manifest).await.unwrap();
    }
    manifest.digest
}

/// Counts what goes by under a subject.
async fn hear(account: &Nats, subject: &'static str, stop: CancellationToken) -> Arc<AtomicUsize> {
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    let options = async_nats::ConnectOptions::with_user_and_password(
        account.user.clone(),
        account.password.clone(),
    );
    let client = options.connect(&account.url).await.unwrap();
    let mut events = client.subscribe(subject).await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        let _client = client;
        while let Some(Some(_)) = stop.run_until_cancelled(events.next()).await {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    heard
}
