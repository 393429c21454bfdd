//! What the tests start from: servers, a function with builds and tasks, consumers that take what is sent.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use mecapy_bus::topology::Durable;
use mecapy_bus::{
    Backbone, Bus, ConsumerOptions, Delivery, Handler, HandlerError, Outcome, topology,
};
use mecapy_janitor::sweep::{Options, Part, Report, Sweeps, run};
use mecapy_objects::Objects;
use mecapy_proto::v1::BuildRequested;
use mecapy_proto::{BuildId, Event, FunctionId};
use mecapy_registry::{DistributionInventory, Registry};
use mecapy_service::{Context, Health, Secret};
use mecapy_store::functions::NewVersion;
use mecapy_store::{PgPool, builds, functions};
use mecapy_testkit::{Infra, RegistryServer, eventually, unique};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Far more than anything here takes: what passes it hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub backbone: Backbone,
    pub pool: PgPool,
    pub objects: Objects,
    pub owner: String,
    pub function: FunctionId,
    context: Context,
    _stop: DropGuard,
}

impl World {
    pub async fn start() -> Self {
        let infra = Infra::shared().await;
        let account = infra.nats().await;
        let nats = mecapy_bus::Options {
            url: account.url,
            user: Some(account.user),
            password: Some(Secret::new(account.password)),
        };
        let postgres = mecapy_store::Options { url: infra.postgres().await, ..Default::default() };
        let bus = Bus::connect_now("test", &nats).await.unwrap();
        // Once more where the server answers late: what is there already stays.
        eventually("NATS is set up", PATIENCE, async || {
            topology::setup(&bus, &topology::Setup::default()).await.ok()
        })
        .await;
        let pool = mecapy_store::connect(&postgres).await.unwrap();
        mecapy_store::migrate(&pool).await.unwrap();
        let shutdown = CancellationToken::new();
        let context = Context {
            service: "janitor",
            replica: "1".to_owned(),
            health: Health::default(),
            shutdown: shutdown.clone(),
            hand_back: CancellationToken::new(),
        };
        let backbone = Backbone::start(&context, &nats, &postgres).await.unwrap();
        let s3 = infra.s3().await;
        let objects = Objects::new(&mecapy_objects::Options {
            endpoint: Some(s3.endpoint),
            region: s3.region,
            bucket: s3.bucket,
            access_key: s3.access_key,
            secret_key: Secret::new(s3.secret_key),
        });
        let owner: String = unique("o").chars().filter(char::is_ascii_alphanumeric).collect();
        let mut conn = pool.acquire().await.unwrap();
        let function = functions::ensure(&mut conn, &owner.parse().unwrap(), "f").await.unwrap();
        drop(conn);
        Self { backbone, pool, objects, owner, function, context, _stop: shutdown.drop_guard() }
    }

    /// Everything that stands still for a second is stalled.
    pub fn options() -> Options {
        Options { stalled_seconds: 1, ..Options::default() }
    }

    pub fn sweeps(&self, staging: Registry) -> Sweeps {
        self.sweeps_with(staging, Self::options())
    }

    pub fn sweeps_with(&self, staging: Registry, options: Options) -> Sweeps {
        let staging = Arc::new(DistributionInventory::new(staging));
        Sweeps::new(&self.backbone, self.objects.clone(), staging, options)
    }

    /// One sweep for work that stands still, of now. What fails in it is told by the report's absence of effect.
    pub async fn sweep(&self) -> Report {
        run(&self.sweeps(fallback().await), Part::Work, Utc::now()).await.unwrap().unwrap()
    }

    /// As [`World::sweep`], but that only what stands still for ten minutes is stalled: what was sent again just now is
    /// not, however long the test takes.
    pub async fn patient_sweep(&self) -> Report {
        let options = Options { stalled_seconds: 600, ..Self::options() };
        let sweeps = self.sweeps_with(fallback().await, options);
        run(&sweeps, Part::Work, Utc::now()).await.unwrap().unwrap()
    }

    /// One sweep for what has had its use.
    pub async fn housekeep(&self) -> Report {
        let sweeps = self.sweeps(fallback().await);
        run(&sweeps, Part::Housekeeping, Utc::now()).await.unwrap().unwrap()
    }

    /// Takes events from now on, and does with each what `act` says.
    pub fn consume<E: Event>(&self, durable: Durable, act: Act) -> mpsc::UnboundedReceiver<E> {
        let (seen, receiver) = mpsc::unbounded_channel();
        let (backbone, context) = (self.backbone.clone(), self.context.clone());
        let handler = Taker { seen, act };
        tokio::spawn(async move {
            let options = ConsumerOptions { durable, concurrency: 4 };
            backbone.consume::<E, _>(&context, options, handler).await;
        });
        receiver
    }

    /// The traces of events from now on.
    pub fn consume_traces<E: Event>(
        &self,
        durable: Durable,
    ) -> mpsc::UnboundedReceiver<Option<String>> {
        let (seen, receiver) = mpsc::unbounded_channel();
        let (backbone, context) = (self.backbone.clone(), self.context.clone());
        tokio::spawn(async move {
            let options = ConsumerOptions { durable, concurrency: 4 };
            backbone.consume::<E, _>(&context, options, Traces(seen)).await;
        });
        receiver
    }

    /// A build in `queued`, an hour old, without any message.
    pub async fn build(&self, version: u32) -> (BuildId, BuildRequested) {
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
        drop(conn);
        self.age(build, "1 hour").await;
        let request = BuildRequested {
            build_id: build.to_string(),
            function_id: self.function.get(),
            owner: self.owner.clone(),
            version,
            python_version: "3.11".into(),
            base_variant: "slim".into(),
            source: Some(mecapy_proto::v1::build_requested::Source::Code("print(1)".into())),
            ..Default::default()
        };
        (build, request)
    }

    pub async fn age(&self, build: BuildId, by: &str) {
        self.execute(&format!(
            "update builds set updated_at = now() - interval '{by}', ended_at = ended_at - interval '{by}',
                 built_at = built_at - interval '{by}',
                 resent_at = case when resent_at is null then null else now() - interval '{by}' + interval '1 minute' end
             where id = '{build}'"
        ))
        .await;
    }

    pub async fn execute(&self, sql: &str) {
        sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    pub async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {sql}")))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

/// What becomes of an event that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Accept,
    Refuse,
}

struct Taker<E> {
    seen: mpsc::UnboundedSender<E>,
    act: Act,
}

impl<E: Event> Handler<E> for Taker<E> {
    async fn handle(&self, event: E, _: &Delivery) -> Result<Outcome, HandlerError> {
        let _ = self.seen.send(event);
        match self.act {
            Act::Accept => Ok(Outcome::nothing()),
            Act::Refuse => Err(HandlerError::permanent("refused by the test")),
        }
    }
}

struct Traces(mpsc::UnboundedSender<Option<String>>);

impl<E: Event> Handler<E> for Traces {
    async fn handle(&self, _: E, _: &Delivery) -> Result<Outcome, HandlerError> {
        let _ = self.0.send(mecapy_bus::traceparent());
        Ok(Outcome::nothing())
    }
}

pub async fn next<E>(events: &mut mpsc::UnboundedReceiver<E>) -> E {
    tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event comes").unwrap()
}

pub async fn primary() -> Registry {
    registry(Infra::shared().await.primary())
}

/// Where no other test has staging images: for sweeps of another day.
pub async fn fallback() -> Registry {
    registry(Infra::shared().await.fallback())
}

pub fn registry(server: RegistryServer) -> Registry {
    Registry::new(&mecapy_registry::Options {
        host: server.host,
        username: Some(server.username),
        password: Some(Secret::new(server.password)),
        plain_http: true,
        ..Default::default()
    })
    .unwrap()
}
