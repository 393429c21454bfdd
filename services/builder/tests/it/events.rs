//! The shell on the real chain: NATS, PostgreSQL, S3, a registry and the engine.

use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use futures::StreamExt as _;
use mecapy_builder::{BaseBuilder, BaseHandler, BaseMatrix, Handler, Options};
use mecapy_bus::{Bus, Consumer, ConsumerOptions, Live, Outbox, dead_letters, topology};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::build_requested::Source;
use mecapy_proto::v1::{BaseBuild, BaseRequested, BuildDone, BuildFailed, BuildRequested};
use mecapy_proto::{BuildId, ErrorCode, Event, FunctionId, Owner};
use mecapy_service::{Health, Secret};
use mecapy_store::{BuildState, PgPool, builds, functions};
use mecapy_testkit::{Infra, eventually};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fixture::{LONG, builder, engine, options, owner, primary};
use crate::hostile_packages::{of, serve};

pub struct Chain {
    bus: Bus,
    pub pool: PgPool,
    objects: Objects,
    client: async_nats::Client,
    owner: Owner,
    function: FunctionId,
    _shutdown: tokio_util::sync::DropGuard,
}

impl Chain {
    /// A builder that consumes, and a function that was never built.
    async fn start() -> Self {
        Self::start_with(options()).await
    }

    pub async fn start_with(options: Options) -> Self {
        let infra = Infra::shared().await;
        let account = infra.nats().await;
        let nats = mecapy_bus::Options {
            url: account.url.clone(),
            user: Some(account.user.clone()),
            password: Some(Secret::new(account.password.clone())),
        };
        let bus = Bus::connect_now("builder", &nats).await.unwrap();
        // Once more where the server answers late: what is there already stays.
        eventually("NATS is set up", LONG, async || {
            topology::setup(&bus, &topology::Setup::default()).await.ok()
        })
        .await;
        let postgres = mecapy_store::Options { url: infra.postgres().await, ..Default::default() };
        let pool = mecapy_store::connect(&postgres).await.unwrap();
        mecapy_store::migrate(&pool).await.unwrap();
        let s3 = infra.s3().await;
        let objects = Objects::new(&mecapy_objects::Options {
            endpoint: Some(s3.endpoint),
            region: s3.region,
            bucket: s3.bucket,
            access_key: s3.access_key,
            secret_key: Secret::new(s3.secret_key),
        });
        let client =
            async_nats::ConnectOptions::with_user_and_password(account.user, account.password)
                .connect(account.url)
                .await
                .unwrap();
        let owner = owner();
        let function =
            functions::ensure(&mut pool.acquire().await.unwrap(), &owner, "f").await.unwrap();

        let shutdown = CancellationToken::new();
        let outbox = Outbox::start(bus.clone(), pool.clone(), "builder", shutdown.clone());
        let matrix = BaseMatrix { options: options.base.clone() };
        let registry = primary().await;
        let bases =
            BaseBuilder::new(options.clone(), engine().await, &registry, registry.clone()).unwrap();
        let bases = BaseHandler {
            builder: Arc::new(bases),
            pool: pool.clone(),
            objects: objects.clone(),
            live: Live::new(bus.clone()),
        };
        let handler = Handler {
            builder: builder(options).await,
            pool: pool.clone(),
            objects: objects.clone(),
            live: Live::new(bus.clone()),
        };
        let condition = |durable: topology::Durable| Health::default().condition(durable.name);
        let consumer_options = |durable| ConsumerOptions { durable, concurrency: 4 };
        let (build, request, base) =
            (topology::BUILDER, topology::BASE_MATRIX, topology::BASE_BUILDER);
        let consumer =
            Consumer::new(consumer_options(build), handler, outbox.clone(), condition(build));
        tokio::spawn(consumer.run::<BuildRequested>(shutdown.clone(), CancellationToken::new()));
        let consumer =
            Consumer::new(consumer_options(request), matrix, outbox.clone(), condition(request));
        tokio::spawn(consumer.run::<BaseRequested>(shutdown.clone(), CancellationToken::new()));
        let consumer = Consumer::new(consumer_options(base), bases, outbox, condition(base));
        tokio::spawn(consumer.run::<BaseBuild>(shutdown.clone(), CancellationToken::new()));
        Self { bus, pool, objects, client, owner, function, _shutdown: shutdown.drop_guard() }
    }

    fn request(&self, code: &str, requirements: &str) -> BuildRequested {
        BuildRequested {
            build_id: BuildId::new().to_string(),
            function_id: self.function.get(),
            owner: self.owner.to_string(),
            version: 0,
            python_version: "3.11".to_owned(),
            base_variant: "slim".to_owned(),
            source: Some(Source::Code(code.to_owned())),
            requirements: requirements.to_owned(),
            requested_at: None,
        }
    }

    /// Versions 1 and 2, as the gateway leaves them: the rows are there before the first event is.
    async fn queued(&self, codes: [&str; 2]) -> [BuildRequested; 2] {
        let requests = codes.map(|code| self.request(code, ""));
        for (version, (request, code)) in (1..).zip(requests.iter().zip(codes)) {
            let new = functions::NewVersion {
                python_version: "3.11".to_owned(),
                base_variant: "slim".to_owned(),
                requirements: String::new(),
                inputs_sha256: mecapy_proto::inputs_sha256(code.as_bytes(), "", "3.11", "slim"),
            };
            let mut conn = self.pool.acquire().await.unwrap();
            functions::add_version(&mut conn, self.function, version, &new).await.unwrap();
            let id = request.build_id.parse().unwrap();
            builds::create(&mut conn, id, self.function, version).await.unwrap();
        }
        requests
    }

    /// As a producer that knows nothing of our headers, in JSON.
    pub async fn publish<E: Event>(&self, event: &E) {
        let jetstream = async_nats::jetstream::new(self.client.clone());
        let body = Bytes::from(serde_json::to_vec(event).unwrap());
        jetstream.publish(E::SUBJECT, body).await.unwrap().await.unwrap();
    }

    /// Events of a kind about a build that are in the stream.
    pub async fn events<E: Event>(&self, build: &str) -> Vec<E> {
        let jetstream = async_nats::jetstream::new(self.client.clone());
        let name = if E::SUBJECT.starts_with("base.") { topology::OPS } else { topology::PIPELINE };
        let stream = jetstream.get_stream(name).await.unwrap();
        let last = stream.get_info().await.unwrap().state.last_sequence;
        let mut found = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            if message.subject.as_str() == E::SUBJECT
                && let Ok(event) = E::decode(message.payload)
                && event.key() == build
            {
                found.push(event);
            }
        }
        found
    }

    pub async fn event<E: Event>(&self, build: &str) -> E {
        eventually(E::SUBJECT, LONG, async || self.events::<E>(build).await.pop()).await
    }

    pub async fn state(&self, build: &str) -> Option<BuildState> {
        builds::get(&self.pool, build.parse().unwrap()).await.unwrap().map(|build| build.state)
    }

    pub async fn object(&self, key: &str) -> Option<String> {
        let bytes = self.objects.get(&Key::given(key), 1 << 20).await.unwrap()?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// Their reasons.
    pub async fn dead_letters(&self) -> Vec<String> {
        let letters = dead_letters::list(&self.bus, 0, 100).await.unwrap();
        letters.into_iter().map(|letter| letter.reason).collect()
    }

    pub async fn nothing_is_left_to_do(&self) {
        let ours = [topology::BUILDER, topology::BASE_MATRIX, topology::BASE_BUILDER];
        eventually("every message is acknowledged", LONG, async || {
            let backlog = topology::backlog(&self.bus).await.unwrap();
            let mut ours = backlog.iter().filter(|(durable, ..)| ours.contains(durable));
            ours.all(|(_, waiting, in_work)| *waiting == 0 && *in_work == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_becomes_an_image_a_record_and_an_event_once() {
    let chain = Chain::start().await;
    let request = chain.request("print('hello')\n", "");
    let id: BuildId = request.build_id.parse().unwrap();
    let live = Live::new(chain.bus.clone()).build_log(id).subscribe().await.unwrap();
    let live = tokio::spawn(live.take(1).collect::<Vec<_>>());
    chain.publish(&request).await;
    let done: BuildDone = chain.event(&request.build_id).await;
    assert_eq!(
        (done.function_id, done.owner.as_str(), done.version),
        (chain.function.get(), chain.owner.as_str(), 1)
    );
    assert!(
        done.image.contains(&format!(
            "mecapy/staging/user-{}-func-{}:{}@{}",
            chain.owner, chain.function, done.tag, done.digest
        )),
        "{}",
        done.image
    );
    assert!(done.size_bytes > 0 && done.lock_key.is_empty() && !done.dependency_image.is_empty());
    assert_eq!(chain.state(&request.build_id).await, Some(BuildState::Scanning));
    let log = chain.object(&done.log_key).await.unwrap();
    assert!(log.contains(&done.tag), "{log}");
    assert!(live.await.unwrap().concat().contains("building version 1"));
    assert_eq!(chain.object(&format!("sources/{id}.py")).await.unwrap(), "print('hello')\n");
    let record = builds::get(&chain.pool, id).await.unwrap().unwrap();
    let base = primary().await.resolve("mecapy/base/python", "3.11-slim").await.unwrap().unwrap();
    assert_eq!(record.base_digest, Some(base.digest.to_string()));
    let dockerfile = chain.object(&format!("dockerfiles/{id}.Dockerfile")).await.unwrap();
    assert!(dockerfile.contains("CMD [\"python\", \"user_function.py\"]"), "{dockerfile}");

    // The same event again, after the build went on.
    chain.publish(&request).await;
    chain.nothing_is_left_to_do().await;
    assert_eq!(chain.events::<BuildDone>(&request.build_id).await.len(), 1);

    // The next request takes the next version.
    let next = chain.request("print('again')\n", "");
    chain.publish(&next).await;
    assert_eq!(chain.event::<BuildDone>(&next.build_id).await.version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_several_times_at_once_makes_one_version() {
    let chain = Chain::start().await;
    // Refused, so that nothing is built: the version and the build are made before that.
    let requests: Vec<_> =
        (0..10).map(|number| chain.request(&format!("import os # {number}\n"), "")).collect();
    for request in &requests {
        futures::future::join_all((0..4).map(|_| chain.publish(request))).await;
    }
    chain.nothing_is_left_to_do().await;
    for (number, is_there) in [(10, true), (11, false)] {
        let version = functions::version(&chain.pool, chain.function, number).await.unwrap();
        assert_eq!(version.is_some(), is_there, "version {number}");
    }
    for request in &requests {
        assert_eq!(chain.events::<BuildFailed>(&request.build_id).await.len(), 1);
    }
    assert_eq!(chain.dead_letters().await, [""; 0]);
}

#[tokio::test]
async fn a_version_that_nobody_has_begun_gives_way_to_a_newer_one_if_that_is_wanted() {
    for (supersede_queued, code) in [(true, Some("build-cancelled")), (false, None)] {
        let chain = Chain::start_with(Options { supersede_queued, ..options() }).await;
        let [older, newer] = chain.queued(["print(1)\n", "print(2)\n"]).await;
        chain.publish(&older).await;
        match code {
            Some(code) => {
                let failure = chain.event::<BuildFailed>(&older.build_id).await.failure.unwrap();
                assert_eq!(failure.code, code);
                assert!(failure.message.contains("version 2"), "{}", failure.message);
            }
            None => drop(chain.event::<BuildDone>(&older.build_id).await),
        }
        chain.publish(&newer).await;
        assert_eq!(chain.event::<BuildDone>(&newer.build_id).await.version, 2);
    }
}

#[tokio::test]
async fn a_version_that_gave_way_stays_ended_when_the_newer_one_is_refused_and_can_be_asked_for_again()
 {
    let chain = Chain::start().await;
    let [older, refused] = chain.queued(["print(1)\n", "import os\n"]).await;
    let code = |failed: BuildFailed| failed.failure.unwrap().code;
    chain.publish(&older).await;
    assert_eq!(code(chain.event(&older.build_id).await), "build-cancelled");
    chain.publish(&refused).await;
    assert_eq!(code(chain.event(&refused.build_id).await), "forbidden-import");
    // States move forward only: not even another delivery begins it again.
    chain.publish(&older).await;
    chain.nothing_is_left_to_do().await;
    assert_eq!(chain.state(&older.build_id).await, Some(BuildState::Failed));
    assert_eq!(chain.events::<BuildFailed>(&older.build_id).await.len(), 1);
    let again = chain.request("print(1)\n", "");
    chain.publish(&again).await;
    assert_eq!(chain.event::<BuildDone>(&again.build_id).await.version, 3);
}

#[tokio::test]
async fn a_version_does_not_give_way_to_a_newer_one_that_was_refused_already() {
    let chain = Chain::start().await;
    let [older, refused] = chain.queued(["print(1)\n", "import os\n"]).await;
    chain.publish(&refused).await;
    chain.event::<BuildFailed>(&refused.build_id).await;
    chain.publish(&older).await;
    assert_eq!(chain.event::<BuildDone>(&older.build_id).await.version, 1);
}

#[tokio::test]
async fn a_refusal_is_told_with_its_code_and_its_log() {
    let chain = Chain::start().await;
    let request = chain.request("import os\n", "");
    chain.publish(&request).await;
    let failed: BuildFailed = chain.event(&request.build_id).await;
    let failure = failed.failure.unwrap();
    assert_eq!(failure.code, ErrorCode::ForbiddenImport.as_str());
    assert!(failure.message.starts_with("line 1, column 8"), "{}", failure.message);
    assert!(
        failure.log_tail.iter().any(|line| line.contains("forbidden-import")),
        "{:?}",
        failure.log_tail
    );
    assert!(chain.object(&failed.log_key).await.unwrap().contains("forbidden-import"));
    assert_eq!(chain.state(&request.build_id).await, Some(BuildState::Failed));
}

#[tokio::test]
async fn what_was_never_ours_to_build_is_told_too() {
    let chain = Chain::start().await;
    let code = |failed: BuildFailed| failed.failure.unwrap().code;

    let mut unknown = chain.request("print()\n", "");
    unknown.function_id = 1_000_000;
    chain.publish(&unknown).await;
    assert_eq!(code(chain.event(&unknown.build_id).await), "unknown-function");

    let mut stranger = chain.request("print()\n", "");
    stranger.owner = "somebody-else".to_owned();
    chain.publish(&stranger).await;
    assert_eq!(code(chain.event(&stranger.build_id).await), "unknown-function");

    let mut missing = chain.request("", "");
    missing.source = Some(Source::SourceS3Key("sources/none.py".to_owned()));
    chain.publish(&missing).await;
    assert_eq!(code(chain.event(&missing.build_id).await), "source-missing");

    let mut elsewhere = chain.request("", "");
    elsewhere.source = Some(Source::SourceS3Key("logs/build-x.log".to_owned()));
    chain.publish(&elsewhere).await;
    assert_eq!(code(chain.event(&elsewhere.build_id).await), "source-missing");

    let mut first = chain.request("print(1)\n", "");
    first.version = 5;
    chain.publish(&first).await;
    assert_eq!(chain.event::<BuildDone>(&first.build_id).await.version, 5);
    let mut other = chain.request("print(2)\n", "");
    other.version = 5;
    chain.publish(&other).await;
    assert_eq!(code(chain.event(&other.build_id).await), "version-conflict");
}

#[tokio::test]
async fn a_try_that_was_overtaken_leaves_the_log_of_the_other_alone() {
    // The index never answers: the build goes on as long as it may, and says nothing.
    let (asked, was_asked) = watch::channel(false);
    let index = serve(Router::new().fallback(async move || {
        asked.send_replace(true);
        std::future::pending::<String>().await
    }))
    .await;
    let chain = Chain::start_with(of(index)).await;
    let request = chain.request("print()\n", "never==1.0\n");
    chain.publish(&request).await;
    was_asked.clone().wait_for(|was_asked| *was_asked).await.unwrap();
    let id: BuildId = request.build_id.parse().unwrap();
    let key = Key::build_log(id);
    eventually("its log is on S3 while it runs", LONG, async || {
        chain.object(key.as_str()).await.filter(|log| log.contains("resolving"))
    })
    .await;

    // Another try has ended it meanwhile, as after a time without NATS.
    let other = "building\nthe image is v1\n";
    chain.objects.put(&key, other.into()).await.unwrap();
    let left = builds::Built {
        staging_image: "r/s".into(),
        digest: "sha256:00".into(),
        tag: "v1".into(),
        size_bytes: 1,
        dependency_image: String::new(),
        lock_key: None,
        log_key: key.to_string(),
        duration_ms: 1,
    };
    assert!(builds::built(&mut chain.pool.acquire().await.unwrap(), id, &left).await.unwrap());
    chain.nothing_is_left_to_do().await;
    assert_eq!(chain.object(key.as_str()).await.as_deref(), Some(other));
    assert_eq!(chain.events::<BuildFailed>(&request.build_id).await, []);
    assert_eq!(chain.events::<BuildDone>(&request.build_id).await, []);
    assert_eq!(chain.dead_letters().await, [""; 0]);
}

#[tokio::test]
async fn a_source_of_another_encoding_comes_through_s3() {
    let chain = Chain::start().await;
    let mut request = chain.request("", "");
    let key = format!("sources/{}.py", request.build_id);
    chain
        .objects
        .put(&Key::given(&key), Bytes::from_static(b"# coding: latin-1\nprint('\xe9')\n"))
        .await
        .unwrap();
    request.source = Some(Source::SourceS3Key(key));
    chain.publish(&request).await;
    chain.event::<BuildDone>(&request.build_id).await;
}

#[tokio::test]
async fn a_request_without_a_usable_id_is_a_dead_letter_and_the_queue_goes_on() {
    let chain = Chain::start().await;
    let mut nameless = chain.request("print()\n", "");
    nameless.build_id = "x".to_owned();
    chain.publish(&nameless).await;
    let good = chain.request("print()\n", "");
    chain.publish(&good).await;
    chain.event::<BuildDone>(&good.build_id).await;
    let letters = eventually("the dead letter", LONG, async || {
        Some(dead_letters::list(&chain.bus, 0, 10).await.unwrap())
            .filter(|letters| !letters.is_empty())
    })
    .await;
    assert!(letters[0].reason.contains("build_id must be a UUID"), "{letters:?}");
}
