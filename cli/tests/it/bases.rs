//! Base images, with a builder that only makes runs: how their cells end is up to each test.

use mecapy_bus::{
    Backbone, ConsumerOptions, Delivery, Handler, HandlerError, Outcome, Outgoing, topology,
};
use mecapy_proto::v1::BaseRequested;
use mecapy_proto::{BuildId, ErrorCode, FunctionId, failure};
use mecapy_service::{Context, Health, Secret};
use mecapy_store::builds::{self, Built};
use mecapy_store::functions::{self, NewVersion};
use mecapy_store::{PgPool, StoredFailure, bases};
use mecapy_testkit::eventually;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::program::{Finished, Running, mecapy};
use crate::servers::Servers;

const LONG: std::time::Duration = std::time::Duration::from_secs(180);
const OLD: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";
const NEW: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000002";

struct MakesRuns;

impl Handler<BaseRequested> for MakesRuns {
    async fn handle(&self, event: BaseRequested, _: &Delivery) -> Result<Outcome, HandlerError> {
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                let cells: Vec<_> = event
                    .variants
                    .iter()
                    .map(|variant| {
                        (BuildId::new(), format!("{}-{variant}", event.python_versions[0]))
                    })
                    .collect();
                bases::create_run(conn, &event.run_id, &event.reason, &cells).await?;
                Ok(Outgoing::none())
            })
        }))
    }
}

struct World {
    servers: Servers,
    pool: PgPool,
    _shutdown: DropGuard,
}

impl World {
    async fn new() -> Self {
        let servers = Servers::new().await;
        mecapy(&["setup", "--config", servers.config()]).await.expect(0);
        let postgres =
            mecapy_store::Options { url: servers.postgres.clone(), ..Default::default() };
        let pool = mecapy_store::connect(&postgres).await.unwrap();
        let shutdown = CancellationToken::new();
        let context = Context {
            service: "builder",
            replica: "test".to_owned(),
            health: Health::default(),
            shutdown: shutdown.clone(),
            hand_back: CancellationToken::new(),
        };
        let nats = mecapy_bus::Options {
            url: servers.nats.url.clone(),
            user: Some(servers.nats.user.clone()),
            password: Some(Secret::new(servers.nats.password.clone())),
        };
        let backbone = Backbone::start(&context, &nats, &postgres).await.unwrap();
        tokio::spawn(async move {
            let options = ConsumerOptions { durable: topology::BASE_MATRIX, concurrency: 1 };
            backbone.consume::<BaseRequested, _>(&context, options, MakesRuns).await;
        });
        Self { servers, pool, _shutdown: shutdown.drop_guard() }
    }

    async fn base(&self, arguments: &[&str]) -> Finished {
        mecapy(&[&["base"], arguments, &["--json", "--config", self.servers.config()]].concat())
            .await
    }

    /// The cells of the newest run, by name, once it is there.
    async fn cells(&self) -> Vec<builds::Build> {
        eventually("the run is made", LONG, async || {
            let run = bases::runs(&self.pool, 1).await.unwrap().pop()?;
            let mut conn = self.pool.acquire().await.unwrap();
            Some(bases::cells(&mut conn, &run.id).await.unwrap())
        })
        .await
    }

    async fn scan(&self, id: BuildId, digest: &str, passed: bool) {
        builds::start(&self.pool, id).await.unwrap();
        let built = Built {
            staging_image: "r/s".into(),
            digest: digest.into(),
            tag: "t".into(),
            size_bytes: 1,
            dependency_image: String::new(),
            lock_key: None,
            log_key: "logs/x".into(),
            duration_ms: 1,
        };
        let mut transaction = self.pool.begin().await.unwrap();
        builds::built(&mut transaction, id, &built).await.unwrap();
        assert!(builds::scanned(&mut transaction, id, digest, passed).await.unwrap());
        transaction.commit().await.unwrap();
    }

    async fn publish(&self, id: BuildId, digest: &str) {
        self.scan(id, digest, true).await;
        let mut transaction = self.pool.begin().await.unwrap();
        assert!(builds::published(&mut transaction, id, "r/i:t").await.unwrap());
        transaction.commit().await.unwrap();
    }

    async fn fail(&self, id: BuildId) {
        let mut transaction = self.pool.begin().await.unwrap();
        let mut why = StoredFailure::from(failure(ErrorCode::BuildFailed, "it broke"));
        why.log.push("the last words".to_owned());
        assert!(builds::fail(&mut transaction, id, &why, None).await.unwrap());
        transaction.commit().await.unwrap();
    }

    /// A function that is ready, on the base image OLD of Python 3.11.
    async fn function(&self, name: &str) -> FunctionId {
        let mut conn = self.pool.acquire().await.unwrap();
        let function = functions::ensure(&mut conn, &"acme".parse().unwrap(), name).await.unwrap();
        let version = NewVersion {
            python_version: "3.11".into(),
            base_variant: "slim".into(),
            requirements: "six\n".into(),
            inputs_sha256: "x".into(),
        };
        functions::add_version(&mut conn, function, 1, &version).await.unwrap();
        let id = BuildId::new();
        builds::create(&mut conn, id, function, 1).await.unwrap();
        bases::stands_on(&mut conn, id, OLD).await.unwrap();
        self.publish(id, OLD).await;
        function
    }

    /// A new base image for them.
    async fn new_base(&self) {
        let cell = [(BuildId::new(), "3.11-slim".to_owned())];
        let mut conn = self.pool.acquire().await.unwrap();
        bases::create_run(&mut conn, "base-2025-10-05", "schedule", &cell).await.unwrap();
        self.publish(cell[0].0, NEW).await;
    }

    async fn queued(&self, function: FunctionId) -> Option<BuildId> {
        sqlx::query_scalar("select id from builds where function_id = $1 and state = 'queued'")
            .bind(function.get())
            .fetch_optional(&self.pool)
            .await
            .unwrap()
            .map(BuildId::from_uuid)
    }

    /// The build that a function waits for.
    async fn rebuild(&self, function: FunctionId) -> BuildId {
        eventually("the function is built again", LONG, || self.queued(function)).await
    }
}

#[tokio::test]
async fn a_build_is_waited_for_and_its_worst_end_is_the_exit_code() {
    let world = World::new().await;
    let config = world.servers.config();
    let arguments = ["base", "build", "--python", "3.11", "--json", "--config", config];
    let variants = ["--variant", "slim", "--variant", "numpy", "--variant", "scipy"];
    let mut running = Running::start(&[&arguments[..], &variants].concat());
    let cells = world.cells().await;
    let [numpy, scipy, slim] = [0, 1, 2].map(|index: usize| cells[index].id());
    world.publish(slim, NEW).await;
    running.says("3.11-slim: ready").await;
    world.scan(numpy, OLD, false).await;
    running.says("3.11-numpy: rejected").await;
    world.fail(scipy).await;
    let ended = running.finish().await.expect(1);
    let images = ended.json()["images"].clone();
    let told: Vec<_> = images
        .as_array()
        .unwrap()
        .iter()
        .map(|image| (image["base"].as_str().unwrap(), image["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [("3.11-numpy", "rejected"), ("3.11-scipy", "failed"), ("3.11-slim", "ready")]
    );
    assert_eq!(images[1]["error"]["code"], "build-failed");

    let list = world.base(&["list"]).await.expect(0).json();
    assert_eq!(list["runs"][0]["reason"], "manual");
    assert_eq!(
        (&list["runs"][0]["ready"], &list["runs"][0]["rejected"], &list["runs"][0]["open"]),
        (&1.into(), &1.into(), &0.into())
    );
    assert_eq!(list["images"].as_array().unwrap().len(), 1);
    assert_eq!(list["images"][0]["digest"], NEW);
}

#[tokio::test]
async fn a_rejected_image_exits_3_and_without_waiting_a_run_is_named() {
    let world = World::new().await;
    let asked = ["build", "--python", "3.11", "--variant", "slim", "--no-wait"];
    let run = world.base(&asked).await.expect(0).json()["run_id"].as_str().unwrap().to_owned();
    assert_eq!(world.cells().await[0].base_run, Some(run));
    world.fail(world.cells().await[0].id()).await;

    let config = world.servers.config();
    let asked = [&["base"], &asked[..5], &["--config", config]].concat();
    let mut running = Running::start(&asked);
    running.says("3.11-slim: queued").await;
    world.scan(world.cells().await[0].id(), NEW, false).await;
    let ended = running.finish().await.expect(3);
    assert!(ended.stdout.contains("3.11-slim  rejected  its scan found"), "{ended:#?}");
    world.base(&["build", "--variant", "../x"]).await.expect(2);

    let mut running = Running::start(&asked);
    running.says("3.11-slim: queued").await;
    world.fail(world.cells().await[0].id()).await;
    let ended = running.finish().await.expect(1);
    assert!(ended.stdout.contains("3.11-slim  failed  build-failed: it broke"), "{ended:#?}");
    assert!(ended.stderr.contains("  the last words"), "{ended:#?}");
}

#[tokio::test]
async fn stale_functions_are_listed_and_built_again_in_batches() {
    let world = World::new().await;
    let one = world.function("one").await;
    let two = world.function("two").await;
    assert_eq!(world.base(&["stale"]).await.expect(0).json()["functions"], serde_json::json!([]));
    world.new_base().await;
    for command in [&["stale"][..], &["rebuild-stale", "--dry-run"]] {
        let functions = world.base(command).await.expect(0).json()["functions"].clone();
        assert_eq!(functions.as_array().unwrap().len(), 2, "{functions}");
        assert_eq!(functions[0]["function_id"], one.get());
        assert_eq!(
            (&functions[0]["base_digest"], &functions[0]["newest_digest"]),
            (&OLD.into(), &NEW.into())
        );
    }

    let config = world.servers.config();
    let asked = ["base", "rebuild-stale", "--batch", "1", "--json", "--config", config];
    let mut running = Running::start(&asked);
    running.says("acme/one: queued").await;
    let again = world.rebuild(one).await;
    assert!(world.queued(two).await.is_none(), "it is the next batch's");
    let mut conn = world.pool.acquire().await.unwrap();
    bases::stands_on(&mut conn, again, NEW).await.unwrap();
    world.publish(again, NEW).await;
    running.says("acme/two: queued").await;
    world.fail(world.rebuild(two).await).await;
    let ended = running.finish().await.expect(1).json();
    assert_eq!(
        (&ended["rebuilt"][0]["status"], &ended["rebuilt"][1]["status"]),
        (&"ready".into(), &"failed".into())
    );
    let left = world.base(&["stale"]).await.expect(0).json();
    assert_eq!(left["functions"].as_array().unwrap().len(), 1);
    assert_eq!(left["functions"][0]["function_id"], two.get());
}

#[tokio::test]
async fn a_batch_in_vain_leaves_the_rest_as_it_is() {
    let world = World::new().await;
    let one = world.function("one").await;
    let two = world.function("two").await;
    world.new_base().await;
    let config = world.servers.config();
    let running = Running::start(&["base", "rebuild-stale", "--batch", "1", "--config", config]);
    world.fail(world.rebuild(one).await).await;
    let ended = running.finish().await.expect(1);
    assert!(ended.stderr.contains("1 functions were left as they are"), "{ended:#?}");
    assert!(world.queued(two).await.is_none());
}
