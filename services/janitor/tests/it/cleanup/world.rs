//! Registries of a test's own, records, and a janitor over both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mecapy_bus::{Bus, Delivery, Handler as _, HandlerError, Outgoing, topology};
use mecapy_janitor::{Janitor, Options, Report};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::{CleanupRequested, TaskDispatch};
use mecapy_proto::{BuildId, FunctionId, TaskId};
use mecapy_registry::{
    Content, Digest, DistributionInventory, Inventory, Manifest, Registry, media_types,
};
use mecapy_service::Secret;
use mecapy_store::builds::Built;
use mecapy_store::cleanup_items::{self, Item};
use mecapy_store::cleanup_runs::{self, Run};
use mecapy_store::functions::NewVersion;
use mecapy_store::tasks::NewTask;
use mecapy_store::{PgPool, builds, functions, tasks};
use mecapy_testkit::{Infra, RegistryServer, Server, eventually};

/// Far more than anything here takes: what passes it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub registries: Infra,
    pub postgres: mecapy_store::Options,
    pub s3: mecapy_objects::Options,
    pub nats: mecapy_bus::Options,
    pub pool: PgPool,
    pub bus: Bus,
    pub primary: Registry,
    pub fallback: Registry,
    pub objects: Objects,
    pub options: Options,
}

pub fn registry_options(server: &RegistryServer) -> mecapy_registry::Options {
    mecapy_registry::Options {
        host: server.host.clone(),
        plain_http: true,
        username: Some(server.username.clone()),
        password: Some(Secret::new(server.password.clone())),
        ..Default::default()
    }
}

impl World {
    /// The inventory is of a whole registry, so each test has one.
    pub async fn new() -> Self {
        let registries = Infra::start(&[Server::Primary, Server::Fallback]).await;
        let shared = Infra::shared().await;
        let postgres = mecapy_store::Options { url: shared.postgres().await, ..Default::default() };
        let pool = mecapy_store::connect(&postgres).await.unwrap();
        mecapy_store::migrate(&pool).await.unwrap();
        let s3 = shared.s3().await;
        let s3 = mecapy_objects::Options {
            endpoint: Some(s3.endpoint),
            region: s3.region,
            bucket: s3.bucket,
            access_key: s3.access_key,
            secret_key: Secret::new(s3.secret_key),
        };
        let objects = Objects::new(&s3);
        objects.ensure_bucket().await.unwrap();
        let account = shared.nats().await;
        let nats = mecapy_bus::Options {
            url: account.url,
            user: Some(account.user),
            password: Some(Secret::new(account.password)),
        };
        let bus = Bus::connect_now("test", &nats).await.unwrap();
        // Once more where the server answers late: what is there already stays.
        eventually("NATS is set up", PATIENCE, async || {
            topology::setup(&bus, &topology::Setup::default()).await.ok()
        })
        .await;
        let primary = Registry::new(&registry_options(&registries.primary())).unwrap();
        let fallback = Registry::new(&registry_options(&registries.fallback())).unwrap();
        // A share of a few images is soon a large one.
        let options = Options { max_percent: 100, ..Options::default() };
        Self { registries, postgres, s3, nats, pool, bus, primary, fallback, objects, options }
    }

    pub fn janitor(&self) -> Janitor {
        self.janitor_with(Arc::new(DistributionInventory::new(self.primary.clone())))
    }

    pub fn janitor_with(&self, inventory: Arc<dyn Inventory>) -> Janitor {
        Janitor {
            pool: self.pool.clone(),
            bus: self.bus.clone(),
            inventory,
            primary: self.primary.clone(),
            fallback: Some(self.fallback.clone()),
            objects: self.objects.clone(),
            options: self.options.clone(),
            hosts: vec![self.primary.host().to_owned(), self.fallback.host().to_owned()],
        }
    }

    pub async fn function(&self, name: &str) -> FunctionId {
        let mut conn = self.pool.acquire().await.unwrap();
        functions::ensure(&mut conn, &"acme".parse().unwrap(), name).await.unwrap()
    }

    pub fn repository(&self, function: FunctionId) -> String {
        format!("mecapy/functions/user-acme-func-{function}")
    }

    /// An image with a layer of its own, under these tags.
    pub async fn push(&self, repository: &str, content: &str, tags: &[&str]) -> Digest {
        push(&self.primary, repository, content, tags).await
    }

    /// The image of a version as the pipeline leaves it: pushed, and its build ready.
    pub async fn publish(&self, function: FunctionId, version: u32) -> Digest {
        let repository = self.repository(function);
        let tag = format!("v{version}-0a");
        let content = format!("{function} version {version}");
        let digest = self.push(&repository, &content, &[&tag, "latest"]).await;
        let mut conn = self.pool.acquire().await.unwrap();
        let new = NewVersion {
            python_version: "3.11".into(),
            base_variant: "slim".into(),
            requirements: String::new(),
            inputs_sha256: version.to_string(),
        };
        functions::add_version(&mut conn, function, version, &new).await.unwrap();
        let build = BuildId::new();
        builds::create(&mut conn, build, function, version).await.unwrap();
        builds::start(&self.pool, build).await.unwrap();
        let built = Built {
            staging_image: String::new(),
            digest: digest.to_string(),
            tag: tag.clone(),
            size_bytes: 1,
            dependency_image: String::new(),
            lock_key: None,
            log_key: String::new(),
            duration_ms: 1,
        };
        builds::built(&mut conn, build, &built).await.unwrap();
        builds::scanned(&mut conn, build, &built.digest, true).await.unwrap();
        let image = format!("{}/{repository}:{tag}@{digest}", self.primary.host());
        builds::published(&mut conn, build, &image).await.unwrap();
        digest
    }

    pub async fn queue_task(&self, function: FunctionId, image: &str) -> TaskId {
        queue_task(&self.pool, function, image).await
    }

    /// Makes everything that is there as old as that, for the registry and for our records.
    pub async fn age(&self, days: i32) {
        self.request(&CleanupRequested { dry_run: true, ..request("look") }).await.unwrap();
        for statement in [
            "update registry_images set first_seen_at = now() - make_interval(days => $1)",
            "update builds set ended_at = now() - make_interval(days => $1) where state = 'ready'",
        ] {
            sqlx::query(statement).bind(days).execute(&self.pool).await.unwrap();
        }
    }

    pub async fn request(&self, event: &CleanupRequested) -> Result<Outgoing, HandlerError> {
        handle(&self.janitor(), event).await
    }

    pub async fn cleanup(&self, run: &str) -> Outgoing {
        self.request(&request(run)).await.unwrap()
    }

    pub async fn undo(&self, run: &str, target: &str) -> Vec<(String, String)> {
        let event = CleanupRequested { undo: target.to_owned(), ..request(run) };
        self.request(&event).await.unwrap();
        let items = cleanup_items::undone(&self.pool, run).await.unwrap();
        items.into_iter().map(|item| (item.state, item.outcome)).collect()
    }

    pub async fn run(&self, run: &str) -> Run {
        cleanup_runs::get(&self.pool, run).await.unwrap().unwrap()
    }

    pub async fn items(&self, run: &str) -> Vec<Item> {
        cleanup_items::items(&self.pool, run).await.unwrap()
    }

    /// The state of each image of a run, and why.
    pub async fn item(&self, run: &str, digest: Digest) -> (String, String) {
        let items = self.items(run).await;
        let item = items.into_iter().find(|item| item.digest == digest.to_string()).unwrap();
        (item.state, item.outcome)
    }

    pub async fn report(&self, run: &str) -> (serde_json::Value, String) {
        let read = async |name| {
            let key = Key::cleanup_report(run, name);
            String::from_utf8(self.objects.get(&key, 1 << 20).await.unwrap().unwrap().to_vec())
                .unwrap()
        };
        let json: Report = serde_json::from_str(&read("report.json").await).unwrap();
        (serde_json::to_value(json).unwrap(), read("report.txt").await)
    }

    pub async fn tag(&self, repository: &str, tag: &str) -> Option<Digest> {
        self.primary.resolve(repository, tag).await.unwrap().map(|lead| lead.digest)
    }

    pub async fn has(&self, repository: &str, digest: Digest) -> bool {
        self.primary.resolve(repository, &digest.to_string()).await.unwrap().is_some()
    }

    /// All tags of a repository, with where they lead.
    pub async fn tags(&self, repository: &str) -> BTreeMap<String, Digest> {
        let mut tags = BTreeMap::new();
        for tag in self.primary.tags(repository).await.unwrap() {
            if let Some(digest) = self.tag(repository, &tag).await {
                tags.insert(tag, digest);
            }
        }
        tags
    }

    /// Pulls an image whole: manifest, config and layers, each verified.
    pub async fn pull(&self, repository: &str, digest: Digest) {
        let manifest = self.primary.manifest(repository, &digest.to_string()).await.unwrap();
        let Content::Image { config, layers } = manifest.parse().unwrap() else {
            panic!("an index")
        };
        for blob in layers.iter().chain([&config]) {
            self.primary.blob_bytes(repository, blob, 1 << 20).await.unwrap();
        }
    }
}

pub fn request(run: &str) -> CleanupRequested {
    CleanupRequested { run_id: run.to_owned(), reason: "manual".to_owned(), ..Default::default() }
}

/// As the bus does it: the outcome in one transaction.
pub async fn handle(janitor: &Janitor, event: &CleanupRequested) -> Result<Outgoing, HandlerError> {
    let delivery = Delivery::new("m", 1, Default::default());
    let outcome = janitor.handle(event.clone(), &delivery).await?;
    let mut transaction = janitor.pool.begin().await.unwrap();
    let outgoing = outcome.apply(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
    Ok(outgoing)
}

/// A producer's own task: nobody has taken it from the queue, and there is no row of it.
pub async fn dispatch(bus: &Bus, function: FunctionId, image: &str) {
    let event = TaskDispatch {
        task_id: TaskId::new().to_string(),
        function_id: function.get(),
        docker_image: image.to_owned(),
        ..TaskDispatch::default()
    };
    bus.publish(&event).await.unwrap();
}

pub async fn queue_task(pool: &PgPool, function: FunctionId, image: &str) -> TaskId {
    let task = NewTask {
        id: TaskId::new(),
        function,
        image: image.to_owned(),
        inputs_s3_key: None,
        timeout_ms: 0,
        deadline: None,
        traceparent: None,
    };
    let mut conn = pool.acquire().await.unwrap();
    assert!(tasks::create(&mut conn, &task).await.unwrap());
    task.id
}

pub async fn push(registry: &Registry, repository: &str, content: &str, tags: &[&str]) -> Digest {
    let manifest = put_image(registry, repository, content, None).await;
    if tags.is_empty() {
        let reference = manifest.digest.to_string();
        registry.put_manifest(repository, &reference, &manifest).await.unwrap();
    }
    for tag in tags {
        registry.put_manifest(repository, tag, &manifest).await.unwrap();
    }
    manifest.digest
}

/// The blobs of an image, and its manifest, which is not put yet.
pub async fn put_image(
    registry: &Registry,
    repository: &str,
    content: &str,
    subject: Option<&Manifest>,
) -> Manifest {
    let config = registry
        .put_blob(repository, Bytes::from(format!("{{\"of\":\"{content}\"}}")))
        .await
        .unwrap();
    let layer = registry.put_blob(repository, Bytes::from(content.repeat(100))).await.unwrap();
    let mut raw = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_types::OCI_MANIFEST,
        "config": { "mediaType": media_types::OCI_CONFIG, "digest": config.digest, "size": config.size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size }],
    });
    if let Some(subject) = subject {
        raw["subject"] = serde_json::json!({
            "mediaType": subject.media_type, "digest": subject.digest, "size": subject.raw.len(),
        });
    }
    Manifest::new(Bytes::from(raw.to_string()), media_types::OCI_MANIFEST)
}

/// Puts an index of manifests that are there.
pub async fn put_index(
    registry: &Registry,
    repository: &str,
    tag: &str,
    children: &[&Manifest],
) -> Digest {
    let children: Vec<_> = children
        .iter()
        .map(|child| serde_json::json!({ "mediaType": child.media_type, "digest": child.digest, "size": child.raw.len() }))
        .collect();
    let raw = serde_json::json!({ "schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": children });
    let index = Manifest::new(Bytes::from(raw.to_string()), media_types::OCI_INDEX);
    registry.put_manifest(repository, tag, &index).await.unwrap();
    index.digest
}
