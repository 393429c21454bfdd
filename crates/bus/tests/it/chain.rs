//! A chain of one service on servers of its own account and database.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use mecapy_bus::topology::{self, Durable};
use mecapy_bus::{
    Bus, Consumer, ConsumerOptions, Delivery, Handler, HandlerError, Options, Outbox, Outcome,
    Outgoing, Pause,
};
use mecapy_proto::v1::{BuildDone, ScanDone};
use mecapy_service::{Health, Secret, step};
use mecapy_store::PgPool;
use mecapy_testkit::{Infra, eventually};
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes: what passes it hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// What the server does at once if somebody waits for it.
const SENT_WITHIN: Duration = Duration::from_secs(2);
pub const SCANNER: Durable = topology::SCANNER;

/// What a handler is told to do with an event, by the event's `tag`.
#[derive(Debug, Default)]
pub struct Echo {
    pub calls: AtomicUsize,
    /// Events whose effect was had here, each time that what follows it was done.
    pub done: Mutex<Vec<String>>,
    /// How often something came that had been taken for lost: on a machine that stood still for half a minute.
    pub again: AtomicUsize,
    /// How often what is left to do for the slot was begun.
    pub rested: AtomicUsize,
    pub seen: Mutex<Vec<String>>,
    /// How many were passed on to another replica.
    pub passed_on: AtomicUsize,
    /// What is held goes on with it.
    pub let_go: CancellationToken,
}

/// The test keeps the other end.
struct Shared(Arc<Echo>);

async fn think(delivery: u64) -> Result<(), HandlerError> {
    if delivery == 1 { Err(HandlerError::transient("not yet")) } else { Ok(()) }
}

impl Handler<BuildDone> for Shared {
    const STAGE: Option<&'static str> = Some("echo");

    async fn handle(&self, event: BuildDone, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        self.0.seen.lock().unwrap().push(event.build_id.clone());
        if delivery.count > 1 {
            self.0.again.fetch_add(1, Ordering::SeqCst);
        }
        // Better handled by a certain replica, and held there.
        if let Some(replica) = event.tag.strip_prefix("is-held-by ") {
            if delivery.pass_on(replica).await {
                self.0.passed_on.fetch_add(1, Ordering::SeqCst);
                return Ok(Outcome::passed_on());
            }
            self.0.let_go.cancelled().await;
        }
        match event.tag.as_str() {
            "fails-once" => step("think", think(delivery.count)).await?,
            "panics" => panic!("a bug"),
            "is-hopeless" => return Err(HandlerError::permanent("it will never work")),
            "takes-forever" if delivery.count == 1 => std::future::pending().await,
            "is-held" => self.0.let_go.cancelled().await,
            _ => {}
        }
        let rests = event.tag == "has-a-rest";
        let build = event.build_id.clone();
        let scan = ScanDone { build_id: event.build_id, ..Default::default() };
        let (echo, rested) = (Arc::clone(&self.0), Arc::clone(&self.0));
        let outcome = Outcome::commit(move |_| Box::pin(async move { Ok(Outgoing::event(&scan)) }))
            .then(move || {
                echo.done.lock().unwrap().push(build);
            });
        Ok(outcome.and_rest(async move {
            if rests {
                rested.rested.fetch_add(1, Ordering::SeqCst);
                rested.let_go.cancelled().await;
            }
        }))
    }
}

pub struct Chain {
    pub bus: Bus,
    pub pool: PgPool,
    /// A plain client, for what comes from outside.
    pub client: async_nats::Client,
    nats: Options,
    /// The number in its stream of the last message that was published here.
    last: AtomicU64,
}

pub struct Replica {
    pub echo: Arc<Echo>,
    pub pause: Pause,
    pub shutdown: CancellationToken,
    pub hand_back: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

impl Chain {
    pub async fn start() -> Self {
        let infra = Infra::shared().await;
        let account = infra.nats().await;
        let nats = Options {
            url: account.url.clone(),
            user: Some(account.user.clone()),
            password: Some(Secret::new(account.password.clone())),
        };
        let bus = Bus::connect_now("test", &nats).await.unwrap();
        // Once more where the server answers late: what is there already stays.
        eventually("NATS is set up", PATIENCE, async || {
            topology::setup(&bus, &topology::Setup::default()).await.ok()
        })
        .await;
        let postgres = mecapy_store::Options { url: infra.postgres().await, ..Default::default() };
        let pool = mecapy_store::connect(&postgres).await.unwrap();
        mecapy_store::migrate(&pool).await.unwrap();
        let client =
            async_nats::ConnectOptions::with_user_and_password(account.user, account.password)
                .connect(account.url)
                .await
                .unwrap();
        Self { bus, pool, client, nats, last: AtomicU64::new(0) }
    }

    /// Another replica of the service, with a connection of its own.
    pub async fn replica(&self) -> Replica {
        self.replica_named("nobody in particular").await
    }

    /// One that takes what others offer to this name.
    pub async fn replica_named(&self, name: &str) -> Replica {
        let bus = Bus::connect_now("test", &self.nats).await.unwrap();
        let shutdown = CancellationToken::new();
        let hand_back = CancellationToken::new();
        let (echo, pause) = (Arc::new(Echo::default()), Pause::default());
        let outbox = Outbox::start(bus, self.pool.clone(), "test", shutdown.clone());
        let consumer = Consumer::new(
            ConsumerOptions { durable: SCANNER, concurrency: 4 },
            Shared(Arc::clone(&echo)),
            outbox,
            Health::default().condition("consumer"),
        )
        .taking_offers_as(name)
        .paused_by(pause.clone());
        let task = tokio::spawn(consumer.run::<BuildDone>(shutdown.clone(), hand_back.clone()));
        Replica { echo, pause, shutdown, hand_back, task }
    }

    /// Publishes as a producer would: JSON, without any header of ours.
    pub async fn publish(&self, build: &str, tag: &str) {
        let event =
            BuildDone { build_id: build.to_owned(), tag: tag.to_owned(), ..Default::default() };
        self.publish_raw(serde_json::to_vec(&event).unwrap()).await;
    }

    pub async fn publish_raw(&self, body: Vec<u8>) {
        let jetstream = async_nats::jetstream::new(self.client.clone());
        let ack = jetstream.publish("build.done", body.into()).await.unwrap().await.unwrap();
        self.last.store(ack.sequence, Ordering::SeqCst);
    }

    /// How many messages of this subject the stream holds.
    pub async fn count(&self, stream: &str, subject: &str) -> usize {
        use futures::TryStreamExt as _;
        let jetstream = async_nats::jetstream::new(self.client.clone());
        let stream = jetstream.get_stream(stream).await.unwrap();
        let subjects: Vec<(String, usize)> =
            stream.info_with_subjects(subject).await.unwrap().try_collect().await.unwrap();
        subjects.iter().map(|(_, count)| count).sum()
    }

    /// Publishes while this thread is blocked, until the server has sent it to a replica. False: none waited for a
    /// message just then.
    pub fn publish_while_blocked(&self, build: &str) -> bool {
        let event = BuildDone { build_id: build.to_owned(), ..Default::default() };
        let body = serde_json::to_vec(&event).unwrap();
        let nats = self.nats.clone();
        let work = async move {
            let password = nats.password.unwrap().expose().to_owned();
            let client =
                async_nats::ConnectOptions::with_user_and_password(nats.user.unwrap(), password)
                    .connect(nats.url)
                    .await
                    .unwrap();
            let jetstream = async_nats::jetstream::new(client);
            let sent = async || {
                let consumer: PullConsumer =
                    jetstream.get_consumer_from_stream(SCANNER.name, SCANNER.stream).await.unwrap();
                consumer.cached_info().delivered.consumer_sequence
            };
            let before = sent().await;
            let ack = jetstream.publish("build.done", body.into()).await.unwrap().await.unwrap();
            let is_sent = async {
                while sent().await == before {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            (ack.sequence, tokio::time::timeout(SENT_WITHIN, is_sent).await.is_ok())
        };
        let working = std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(work));
        let (sequence, is_sent) = working.join().unwrap();
        self.last.store(sequence, Ordering::SeqCst);
        is_sent
    }

    /// Whether all that was published here is acknowledged. By numbers: what still waits is not counted before the
    /// consumer has been told of it, a moment after the stream has it.
    pub async fn is_finished(&self) -> bool {
        let jetstream = async_nats::jetstream::new(self.client.clone());
        let consumer: PullConsumer =
            jetstream.get_consumer_from_stream(SCANNER.name, SCANNER.stream).await.unwrap();
        consumer.cached_info().ack_floor.stream_sequence >= self.last.load(Ordering::SeqCst)
    }
}
