//! What the tests start from: servers, a function, notifiers of its own.

use std::time::Duration;

use mecapy_bus::{Bus, Outbox, Outgoing, dead_letters, topology};
use mecapy_notifier::{Config, Options};
use mecapy_proto::{BuildId, Event, FunctionId, TaskId, v1};
use mecapy_service::{Context, Health, Secret};
use mecapy_store::deliveries::{self, Attempt, Delivery, DeliveryState, NewDelivery};
use mecapy_store::webhooks::{NewWebhook, Notice, Webhook};
use mecapy_store::{PgPool, functions, webhooks};
use mecapy_testkit::{Infra, eventually, unique};
use mecapy_webhooks::signature;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::receiver::Receiver;

/// Far more than anything here takes: what passes it hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub pool: PgPool,
    pub bus: Bus,
    pub owner: String,
    pub function: FunctionId,
    nats: mecapy_bus::Options,
    postgres: mecapy_store::Options,
    outbox: Outbox,
    _stop: DropGuard,
}

/// A running notifier. Dropped, it is told to stop.
pub struct Replica {
    pub serving: JoinHandle<()>,
    pub shutdown: CancellationToken,
    _stop: DropGuard,
}

impl Replica {
    /// And waits until what it does has ended. One that is dropped may still take what becomes due.
    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.serving).await.unwrap().unwrap();
    }
}

/// Receivers on this machine, without TLS, and more time for them than any test has: on a slow machine, none is cut off
/// that answers, and no lease ends before its try.
pub fn config() -> Config {
    Config {
        webhooks: mecapy_webhooks::Options { allow_http: true, allow_private: true },
        notifier: Options { timeout_seconds: 600, ..Options::default() },
        ..Config::default()
    }
}

impl World {
    pub async fn set_up() -> Self {
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
        let owner: String = unique("o").chars().filter(char::is_ascii_alphanumeric).collect();
        let mut conn = pool.acquire().await.unwrap();
        let function =
            functions::ensure(&mut conn, &owner.parse().unwrap(), "stats").await.unwrap();
        drop(conn);
        let stop = CancellationToken::new();
        let outbox = Outbox::start(bus.clone(), pool.clone(), "test", stop.clone());
        Self { pool, bus, owner, function, nats, postgres, outbox, _stop: stop.drop_guard() }
    }

    /// With one notifier.
    pub async fn start() -> (Self, Replica) {
        let world = Self::set_up().await;
        let replica = world.notifier(config()).await;
        (world, replica)
    }

    pub async fn notifier(&self, config: Config) -> Replica {
        mecapy_service::install_tls();
        let config = Config { nats: self.nats.clone(), postgres: self.postgres.clone(), ..config };
        let shutdown = CancellationToken::new();
        let context = Context {
            service: "notifier",
            replica: unique("replica"),
            health: Health::default(),
            shutdown: shutdown.clone(),
            hand_back: CancellationToken::new(),
        };
        let health = context.health.clone();
        let serving = tokio::spawn(async move {
            mecapy_notifier::run(config, context).await.unwrap();
        });
        eventually("the notifier is ready", PATIENCE, async || {
            health.missing().is_empty().then_some(())
        })
        .await;
        Replica { serving, shutdown: shutdown.clone(), _stop: shutdown.drop_guard() }
    }

    /// A webhook of the owner's, for all that it may be told of; and its secret.
    pub async fn webhook(&self, url: &str) -> (Webhook, String) {
        self.webhook_for(url, None, Notice::ALL).await
    }

    pub async fn webhook_for(
        &self,
        url: &str,
        function: Option<FunctionId>,
        events: &[Notice],
    ) -> (Webhook, String) {
        self.webhook_of(&self.owner, url, function, events).await
    }

    pub async fn webhook_of(
        &self,
        owner: &str,
        url: &str,
        function: Option<FunctionId>,
        events: &[Notice],
    ) -> (Webhook, String) {
        let secret = signature::new_secret().unwrap();
        let new = NewWebhook {
            owner: owner.to_owned(),
            function,
            url: url.to_owned(),
            description: String::new(),
            events: events.to_vec(),
            secret: secret.clone(),
        };
        let mut conn = self.pool.acquire().await.unwrap();
        let webhook = webhooks::create(&mut conn, &new, 100).await.unwrap().unwrap();
        (webhook, secret.expose().to_owned())
    }

    /// A message that is due, of no event.
    pub async fn message(&self, webhook: Uuid, event_id: &str) -> Uuid {
        let new = NewDelivery {
            event_id: event_id.to_owned(),
            event_type: "push.done".to_owned(),
            body: "{}".to_owned(),
            lasts: mecapy_notifier::A_DAY,
        };
        let mut conn = self.pool.acquire().await.unwrap();
        deliveries::insert(&mut conn, &[webhook], &new).await.unwrap().remove(0)
    }

    pub async fn publish(&self, event: &impl Event) {
        self.send(Outgoing::event(event)).await;
    }

    /// Once more, as the janitor does: under another id for the stream.
    pub async fn publish_again(&self, event: &impl Event) {
        self.send(Outgoing::again(event, chrono::Utc::now())).await;
    }

    async fn send(&self, outgoing: Outgoing) {
        let mut transaction = self.pool.begin().await.unwrap();
        let written = self.outbox.write(&mut transaction, outgoing).await.unwrap();
        transaction.commit().await.unwrap();
        self.outbox.send(written).await;
    }

    pub fn pushed(&self) -> v1::PushDone {
        v1::PushDone {
            build_id: BuildId::new().to_string(),
            function_id: self.function.get(),
            owner: self.owner.clone(),
            version: 3,
            image: "registry.test/mecapy/functions/x:v3@sha256:00".to_owned(),
            ..Default::default()
        }
    }

    pub fn task_done(&self) -> v1::TaskDone {
        v1::TaskDone {
            task_id: TaskId::new().to_string(),
            function_id: self.function.get(),
            attempt: 1,
            status: v1::TaskStatus::Failed.into(),
            worker: "machine-of-ours".to_owned(),
            ..Default::default()
        }
    }

    pub async fn deliveries(&self, webhook: Uuid) -> Vec<Delivery> {
        deliveries::list(&self.pool, webhook, None, None, 100).await.unwrap()
    }

    /// The webhook's only delivery, when it is so far.
    pub async fn delivery_is(&self, webhook: Uuid, state: DeliveryState) -> Delivery {
        self.delivery(&format!("the delivery is {}", state.as_str()), webhook, |delivery| {
            delivery.state == state
        })
        .await
    }

    pub async fn delivery(
        &self,
        what: &str,
        webhook: Uuid,
        is_so: impl Fn(&Delivery) -> bool,
    ) -> Delivery {
        eventually(what, PATIENCE, async || {
            let all = self.deliveries(webhook).await;
            assert!(all.len() <= 1, "one event is one delivery");
            all.into_iter().find(&is_so)
        })
        .await
    }

    /// After so many tries were written down.
    pub async fn attempts(&self, delivery: Uuid, number: usize) -> Vec<Attempt> {
        eventually(&format!("{number} tries are over"), PATIENCE, async || {
            let attempts = deliveries::attempts(&self.pool, delivery).await.unwrap();
            (attempts.len() >= number).then_some(attempts)
        })
        .await
    }

    /// The time until the next try passes.
    pub async fn time_passes(&self, delivery: Uuid) {
        self.between_tries("set next_attempt_at = now()", delivery).await;
    }

    /// The day passes.
    pub async fn the_day_passes(&self, delivery: Uuid) {
        let day = "set give_up_at = now() - interval '1 s', next_attempt_at = now()";
        self.between_tries(day, delivery).await;
    }

    /// Changes a delivery while nobody tries it: by itself it is tried 5 s after its first failure, and at its end a try
    /// writes down when the next is due, by what it knew when it began.
    async fn between_tries(&self, change: &str, delivery: Uuid) {
        eventually("no try is under way", PATIENCE, async || {
            self.unless_tried(change, delivery).await.then_some(())
        })
        .await;
    }

    /// If nobody tries it now, it is due.
    pub async fn hurry(&self, delivery: Uuid) {
        self.unless_tried("set next_attempt_at = now()", delivery).await;
    }

    async fn unless_tried(&self, change: &str, delivery: Uuid) -> bool {
        let update =
            format!("update webhook_deliveries {change} where id = $1 and leased_until is null");
        let query = sqlx::query(sqlx::AssertSqlSafe(update)).bind(delivery);
        query.execute(&self.pool).await.unwrap().rows_affected() == 1
    }

    pub async fn dead_letters(&self) -> Vec<dead_letters::DeadLetter> {
        dead_letters::list(&self.bus, 0, 100).await.unwrap()
    }
}

/// A receiver that is told of everything, and its webhook.
pub async fn told(world: &World, receiver: &Receiver) -> (Webhook, String) {
    world.webhook(&receiver.url()).await
}
