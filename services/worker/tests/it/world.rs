//! What the tests start from: servers, a database with functions in it, images in registries, workers.

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use mecapy_bus::{Bus, Results, Workers, topology};
use mecapy_objects::Objects;
use mecapy_proto::v1::{Failure, TaskDispatch, TaskDone};
use mecapy_proto::{BuildId, Event as _, FunctionId, TaskId};
use mecapy_registry::{ConfigPatch, Digest, ImageRef, Options as RegistryOptions};
use mecapy_service::{Context, Health, Secret};
use mecapy_store::functions::NewVersion;
use mecapy_store::tasks::Task;
use mecapy_store::{PgPool, builds, functions, scans, tasks};
use mecapy_testkit::{Infra, eventually, unique};
use mecapy_worker::Config;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::containers::{container_exists, containers_of, docker, let_go};
use crate::published::{primary, push, registry_options};

/// Far more than anything here takes: what passes it hangs.
pub const LONG: Duration = Duration::from_secs(120);

pub const DOUBLE: &str = r#"
import json, sys
inputs = json.load(open("/inputs.json"))
print("said")
print("complained", file=sys.stderr)
json.dump({"double": inputs["n"] * 2}, open("/output.json", "w"))
"#;
/// Ends when the test says so.
pub const WAIT: &str = r#"
import json, os, time
while not os.path.exists("/tmp/go"):
    time.sleep(0.01)
json.dump("went", open("/output.json", "w"))
"#;

/// Servers of its own account, database and bucket.
pub struct World {
    pub pool: PgPool,
    pub bus: Bus,
    pub client: async_nats::Client,
    pub objects: Objects,
    pub results: Results,
    pub owner: String,
    config: Config,
    /// Removed from the engine at the end.
    images: Mutex<Vec<String>>,
}

/// A function with a ready build.
pub struct Function {
    pub id: FunctionId,
    pub repository: String,
    pub digest: Digest,
}

/// A worker in this process.
pub struct Running {
    pub name: String,
    pub shutdown: CancellationToken,
    pub hand_back: CancellationToken,
    pub ended: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Stops it, gently, and sees that it left nothing behind.
    pub async fn stop(self) {
        let Self { name, shutdown, ended, .. } = self;
        shutdown.cancel();
        ended.await.unwrap();
        // The end does not wait for ever for a container that is being started: that one goes when it has come up.
        eventually("nothing is left behind", LONG, async || {
            containers_of(&name).is_empty().then_some(())
        })
        .await;
    }
}

impl World {
    pub async fn start() -> Self {
        let infra = Infra::shared().await;
        Self::on(infra.postgres().await, infra.s3().await).await
    }

    /// With a database and a bucket of the caller's.
    pub async fn on(postgres: String, s3: mecapy_testkit::S3) -> Self {
        let infra = Infra::shared().await;
        let account = infra.nats().await;
        let mut config = Config::default();
        config.nats.url = account.url.clone();
        config.nats.user = Some(account.user.clone());
        config.nats.password = Some(Secret::new(account.password.clone()));
        config.postgres.url = postgres;
        config.s3.endpoint = Some(s3.endpoint);
        config.s3.region = s3.region;
        config.s3.access_key = s3.access_key;
        config.s3.secret_key = Secret::new(s3.secret_key);
        config.s3.bucket = s3.bucket;
        config.registries.primary = registry_options(infra.primary());
        config.registries.fallback = Some(registry_options(infra.fallback()));
        config.docker.host = std::env::var("DOCKER_HOST").ok();
        config.worker.slots = Some(4);
        config.worker.pool.directory = std::env::temp_dir().join("mecapy-worker-tests");
        // Whether containers wait is not to depend on what else the machine's memory holds.
        config.worker.pool.leave_free_mib = 0;
        config.worker.limits.memory_mib = 256;
        config.worker.limits.cpus = 1.0;

        let bus = Bus::connect_now("test", &config.nats).await.unwrap();
        // Once more where the server answers late: what is there already stays.
        eventually("NATS is set up", LONG, async || {
            topology::setup(&bus, &topology::Setup::default()).await.ok()
        })
        .await;
        let pool = mecapy_store::connect(&config.postgres).await.unwrap();
        mecapy_store::migrate(&pool).await.unwrap();
        let client =
            async_nats::ConnectOptions::with_user_and_password(account.user, account.password)
                .connect(account.url)
                .await
                .unwrap();
        Self {
            pool,
            results: Results::new(bus.clone()),
            bus,
            client,
            objects: Objects::new(&config.s3),
            owner: unique("o"),
            config,
            images: Mutex::default(),
        }
    }

    pub async fn worker(&self) -> Running {
        self.worker_with(|_| ()).await
    }

    /// A worker that takes tasks.
    pub async fn worker_with(&self, change: impl FnOnce(&mut Config)) -> Running {
        let (worker, health) = self.worker_that_starts(change);
        eventually("the worker is ready", LONG, async || {
            (health.missing().is_empty() && !worker.ended.is_finished()).then_some(())
        })
        .await;
        worker
    }

    /// A worker, and what it waits for.
    pub fn worker_that_starts(&self, change: impl FnOnce(&mut Config)) -> (Running, Health) {
        let mut config = self.config.clone();
        config.worker.name = Some(unique("worker"));
        change(&mut config);
        let name = config.worker.name.clone().unwrap();
        let context = Context {
            service: "worker",
            replica: name.clone(),
            health: Health::default(),
            shutdown: CancellationToken::new(),
            hand_back: CancellationToken::new(),
        };
        let (shutdown, hand_back) = (context.shutdown.clone(), context.hand_back.clone());
        let health = context.health.clone();
        let ended = tokio::spawn(async move { mecapy_worker::run(config, context).await.unwrap() });
        (Running { name, shutdown, hand_back, ended }, health)
    }

    /// A function that is ready, with its image on the primary.
    pub async fn function(&self, code: &str) -> Function {
        self.function_at(code, &primary().await, true).await
    }

    /// A function whose image is in this registry alone, scanned or not.
    pub async fn function_at(
        &self,
        code: &str,
        registry: &RegistryOptions,
        scanned: bool,
    ) -> Function {
        self.function_as(code, registry, scanned, ConfigPatch::default()).await
    }

    /// A function whose image has something else in its configuration.
    pub async fn function_as(
        &self,
        code: &str,
        registry: &RegistryOptions,
        scanned: bool,
        patch: ConfigPatch,
    ) -> Function {
        self.function_without(code, registry, scanned, patch, &[]).await
    }

    /// And whose image lacks files of its base.
    pub async fn function_without(
        &self,
        code: &str,
        registry: &RegistryOptions,
        scanned: bool,
        patch: ConfigPatch,
        files: &[&str],
    ) -> Function {
        let (id, build) = self.draft().await;
        let repository = format!("mecapy/functions/user-{}-func-{id}", self.owner);
        let digest = push(registry, &repository, code, id, patch, files).await;
        let image = ImageRef::new(&registry.host, &repository).with_tag("v1").with_digest(digest);
        self.images.lock().unwrap().push(format!("{}/{repository}@{digest}", registry.host));
        let mut conn = self.pool.acquire().await.unwrap();
        let built = builds::Built {
            staging_image: image.to_string(),
            digest: digest.to_string(),
            tag: "v1".to_owned(),
            size_bytes: 1,
            dependency_image: String::new(),
            lock_key: None,
            log_key: String::new(),
            duration_ms: 1,
        };
        assert!(builds::built(&mut conn, build, &built).await.unwrap());
        if scanned {
            scans::insert(&mut conn, build, &passed(digest)).await.unwrap();
        }
        // For the test of an unscanned image the state is what a bug or an attacker would have made of it.
        assert!(builds::scanned(&mut conn, build, &digest.to_string(), true).await.unwrap());
        assert!(builds::published(&mut conn, build, &image.to_string()).await.unwrap());
        Function { id, repository, digest }
    }

    /// A function whose first build is not done.
    pub async fn draft(&self) -> (FunctionId, BuildId) {
        let mut conn = self.pool.acquire().await.unwrap();
        let id =
            functions::ensure(&mut conn, &self.owner.parse().unwrap(), &unique("f")).await.unwrap();
        let version = NewVersion {
            python_version: "3.11".to_owned(),
            base_variant: "slim".to_owned(),
            requirements: String::new(),
            inputs_sha256: "0".repeat(64),
        };
        functions::add_version(&mut conn, id, 1, &version).await.unwrap();
        let build = BuildId::new();
        assert!(builds::create(&mut conn, build, id, 1).await.unwrap());
        builds::start(&self.pool, build).await.unwrap();
        (id, build)
    }

    /// A task for a function, with inputs as JSON, not sent yet.
    pub fn task(&self, function: FunctionId, inputs: &str) -> TaskDispatch {
        use mecapy_proto::v1::task_dispatch::Inputs;
        TaskDispatch {
            task_id: TaskId::new().to_string(),
            function_id: function.get(),
            inputs: Some(Inputs::InputsJson(inputs.to_owned())),
            ..TaskDispatch::default()
        }
    }

    /// As a producer without the gateway does it: no id, so that the stream takes each copy.
    pub async fn send(&self, task: &TaskDispatch) -> TaskId {
        self.publish("task.dispatch", task.encode_to_vec()).await;
        task.task_id.parse().unwrap()
    }

    pub async fn publish(&self, subject: &'static str, body: Vec<u8>) {
        let jetstream = async_nats::jetstream::new(self.client.clone());
        jetstream
            .publish_with_headers(subject, HeaderMap::new(), body.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }

    /// Sends a task and waits for its end.
    pub async fn run(&self, task: &TaskDispatch) -> Task {
        let id = self.send(task).await;
        self.end(id).await
    }

    /// Waits for a task's end, and sees that its container is gone.
    pub async fn end(&self, id: TaskId) -> Task {
        let task = eventually("the task has ended", LONG, async || {
            self.look(id).await.filter(|task| task.state.is_final())
        })
        .await;
        // One that was parked goes beside what comes after.
        eventually("the task's container is gone", LONG, async || {
            (!container_exists(id)).then_some(())
        })
        .await;
        task
    }

    /// The end of a function that waits for a word, whatever container it is in by now.
    pub async fn let_end(&self, id: TaskId) -> Task {
        eventually("the task ends when it may", LONG, async || {
            let_go(id);
            self.look(id).await.filter(|task| task.state.is_final())
        })
        .await;
        self.end(id).await
    }

    pub async fn look(&self, id: TaskId) -> Option<Task> {
        tasks::get(&self.pool, id).await.unwrap()
    }

    /// A worker whose next tasks with the dependencies of all tests' functions run in containers that wait.
    pub async fn worker_with_parked(&self, change: impl FnOnce(&mut Config)) -> Running {
        let worker = self.worker_with(change).await;
        let first = self.function(DOUBLE).await;
        let task = self.run(&self.task(first.id, r#"{"n": 1}"#)).await;
        assert_eq!(task.state, mecapy_store::TaskState::Succeeded, "{task:?}");
        self.until_one_waits(&worker).await;
        worker
    }

    /// Waits until a container of this worker waits for a task. By what the worker says after the call: that the engine
    /// has the container does not tell that it has come up, nor that it has not had its task.
    pub async fn until_one_waits(&self, worker: &Running) {
        let (workers, asked_at) = (Workers::new(self.bus.clone()), chrono::Utc::now());
        eventually("a container is parked", LONG, async || {
            let all = workers.list().await.unwrap();
            let status = all.into_iter().find(|status| status.name == worker.name)?;
            let waits = status.parked.iter().any(|parked| parked.waiting > 0);
            (status.seen_at > asked_at && waits).then_some(())
        })
        .await;
    }

    /// Waits until a container of the task is there.
    pub async fn until_it_runs(&self, id: TaskId) {
        eventually("the task's container runs", LONG, async || container_exists(id).then_some(()))
            .await;
    }

    /// Waits until the queue is empty: all messages are acknowledged.
    pub async fn until_nothing_waits(&self) {
        eventually("every message is acknowledged", LONG, async || {
            let backlog = topology::backlog(&self.bus).await.unwrap();
            backlog
                .iter()
                .all(|(durable, waiting, out)| {
                    *durable != topology::WORKER || waiting + *out as u64 == 0
                })
                .then_some(())
        })
        .await;
    }

    /// Takes the one message that waits and hands it back: its next delivery says that its worker is gone.
    pub async fn hand_back_once(&self) {
        use async_nats::jetstream::{AckKind, consumer::PullConsumer};
        use futures::StreamExt as _;
        let jetstream = async_nats::jetstream::new(self.client.clone());
        let topology::Durable { name, stream, .. } = topology::WORKER;
        let consumer: PullConsumer =
            jetstream.get_consumer_from_stream(name, stream).await.unwrap();
        let mut messages = consumer.batch().max_messages(1).expires(LONG).messages().await.unwrap();
        let message = messages.next().await.unwrap().unwrap();
        message.ack_with(AckKind::Nak(None)).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// All `task.done` of a task, once there is at least one.
    pub async fn done(&self, id: TaskId) -> Vec<TaskDone> {
        let found = eventually("task.done is published", LONG, async || {
            let found = self.done_so_far(id).await;
            (!found.is_empty()).then_some(found)
        });
        found.await
    }

    pub async fn done_so_far(&self, id: TaskId) -> Vec<TaskDone> {
        use async_nats::jetstream::consumer;
        use futures::TryStreamExt as _;
        let jetstream = async_nats::jetstream::new(self.client.clone());
        let stream = jetstream.get_stream(topology::PIPELINE).await.unwrap();
        let config = consumer::pull::Config {
            filter_subject: TaskDone::SUBJECT.to_owned(),
            ack_policy: consumer::AckPolicy::None,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let all: Vec<_> = consumer
            .fetch()
            .max_messages(1000)
            .messages()
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        all.iter()
            .map(|message| TaskDone::decode(message.payload.clone()).unwrap())
            .filter(|done| done.task_id == id.to_string())
            .collect()
    }

    pub async fn object(&self, key: &str) -> Option<Bytes> {
        self.objects.get(&mecapy_objects::Key::given(key), 1 << 20).await.unwrap()
    }

    /// Removes this image too, at the end.
    pub fn forget(&self, image: String) {
        self.images.lock().unwrap().push(image);
    }

    /// Whether the engine has this image.
    pub fn is_here(&self, image: &str) -> bool {
        Command::new("docker").args(["image", "inspect", image]).output().unwrap().status.success()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for image in self.images.lock().unwrap().iter() {
            docker(&["image", "rm", "--force", image]);
            // The test of the cache's limits calls the same registry by another name.
            docker(&["image", "rm", "--force", &image.replace("127.0.0.1", "localhost")]);
        }
    }
}

/// A task's row, as the gateway makes it.
pub fn row(id: TaskId, function: &Function) -> tasks::NewTask {
    tasks::NewTask {
        id,
        function: function.id,
        image: String::new(),
        inputs_s3_key: None,
        timeout_ms: 0,
        deadline: None,
        traceparent: None,
    }
}

pub fn code(task: &Task) -> Option<String> {
    task.failure().map(|failure| Failure::from(failure).code)
}

fn passed(digest: Digest) -> scans::NewScan {
    scans::NewScan {
        digest: digest.to_string(),
        engine: "test".to_owned(),
        engine_version: "1".to_owned(),
        database_version: "1".to_owned(),
        database_partial: false,
        passed: true,
        critical: 0,
        high: 0,
        medium: 0,
        low: 0,
        unknown: 0,
        findings: Default::default(),
        report_key: String::new(),
        sbom_key: String::new(),
        duration_ms: 1,
    }
}
