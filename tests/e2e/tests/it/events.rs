//! Events from outside the gateway: right, twice, late, and wrong.

use async_nats::HeaderMap;
use async_nats::jetstream;
use mecapy_bus::{dead_letters, topology};
use mecapy_e2e::System;
use mecapy_proto::v1::{BuildRequested, ScanDone, build_requested::Source};
use mecapy_proto::{BuildId, FunctionId, Owner};
use mecapy_store::{BuildState, builds, functions};
use mecapy_testkit::{Infra, eventually};
use prost::Message as _;
use tokio_stream::StreamExt as _;

use crate::{DOUBLE, PATIENCE};

/// A producer with nothing of ours but the address.
struct Producer {
    jetstream: jetstream::Context,
}

impl Producer {
    async fn new(system: &System) -> Self {
        let client = async_nats::ConnectOptions::with_user_and_password(
            system.nats.user.clone(),
            system.nats.password.clone(),
        )
        .connect(&system.nats.url)
        .await
        .unwrap();
        Self { jetstream: jetstream::new(client) }
    }

    async fn publish(&self, subject: &str, headers: &[(&str, &str)], body: Vec<u8>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        self.jetstream
            .publish_with_headers(subject.to_owned(), map, body.into())
            .await
            .unwrap()
            .await
            .unwrap();
    }

    async fn count(&self, subject: &str) -> usize {
        let stream = self.jetstream.get_stream(topology::PIPELINE).await.unwrap();
        let mut subjects = stream.info_with_subjects(subject).await.unwrap();
        let mut total = 0;
        while let Some(next) = subjects.next().await {
            total += next.unwrap().1;
        }
        total
    }
}

async fn function(system: &System, name: &str) -> FunctionId {
    let owner: Owner = system.owner.parse().unwrap();
    let mut conn = system.pool.acquire().await.unwrap();
    functions::ensure(&mut conn, &owner, name).await.unwrap()
}

fn request(system: &System, function: i64, build: BuildId) -> BuildRequested {
    BuildRequested {
        build_id: build.to_string(),
        function_id: function,
        owner: system.owner.clone(),
        version: 0,
        python_version: "3.11".into(),
        base_variant: "slim".into(),
        requirements: String::new(),
        requested_at: None,
        source: Some(Source::Code(DOUBLE.into())),
    }
}

async fn state(system: &System, build: BuildId) -> Option<BuildState> {
    builds::get(&system.pool, build).await.unwrap().map(|build| build.state)
}

async fn is_ready(system: &System, build: BuildId) {
    eventually("the build is ready", PATIENCE, async || {
        (state(system, build).await == Some(BuildState::Ready)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_without_the_gateway_gets_the_same_by_protobuf_and_by_json() {
    let system = System::start(Infra::shared().await).await.unwrap();
    let producer = Producer::new(&system).await;
    let (by_protobuf, by_json) = (BuildId::new(), BuildId::new());
    let first = request(&system, function(&system, "one").await.get(), by_protobuf);
    let second = request(&system, function(&system, "two").await.get(), by_json);
    producer
        .publish(
            "build.requested",
            &[("content-type", "application/protobuf")],
            first.encode_to_vec(),
        )
        .await;
    producer.publish("build.requested", &[], serde_json::to_vec(&second).unwrap()).await;
    is_ready(&system, by_protobuf).await;
    is_ready(&system, by_json).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_again_after_the_build_ended_changes_nothing() {
    let system = System::start(Infra::shared().await).await.unwrap();
    let producer = Producer::new(&system).await;
    let build = BuildId::new();
    let request = request(&system, function(&system, "again").await.get(), build);
    producer.publish("build.requested", &[], request.encode_to_vec()).await;
    producer.publish("build.requested", &[], request.encode_to_vec()).await;
    is_ready(&system, build).await;
    // The row is ready before what tells of it is out.
    eventually("push.done is in the stream", PATIENCE, async || {
        (producer.count("push.done").await == 1).then_some(())
    })
    .await;
    let before = builds::get(&system.pool, build).await.unwrap().unwrap();

    // The latest first, and without ids that the stream would know.
    let stream = producer.jetstream.get_stream(topology::PIPELINE).await.unwrap();
    for subject in ["push.done", "scan.done", "build.done", "build.requested"] {
        let message = stream.get_last_raw_message_by_subject(subject).await.unwrap();
        producer
            .publish(subject, &[("content-type", "application/protobuf")], message.payload.to_vec())
            .await;
    }
    eventually("all messages are acknowledged", PATIENCE, async || {
        let backlog = topology::backlog(&system.bus).await.unwrap();
        backlog.iter().all(|(_, pending, out)| *pending == 0 && *out == 0).then_some(())
    })
    .await;
    for subject in ["build.done", "scan.done", "push.done"] {
        assert_eq!(producer.count(subject).await, 2, "{subject}: the first, and our copy");
    }
    let after = builds::get(&system.pool, build).await.unwrap().unwrap();
    assert_eq!(
        (after.state, after.ended_at, after.digest),
        (before.state, before.ended_at, before.digest)
    );
    assert_eq!(dead_letters::count(&system.bus).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_a_dead_letter_or_a_failure_and_the_queue_goes_on() {
    let system = System::start(Infra::shared().await).await.unwrap();
    let producer = Producer::new(&system).await;
    let known = function(&system, "known").await.get();

    producer.publish("build.requested", &[], b"\xff\xfe nothing".to_vec()).await;
    producer
        .publish(
            "scan.done",
            &[],
            ScanDone { build_id: BuildId::new().to_string(), verdict: 99, ..Default::default() }
                .encode_to_vec(),
        )
        .await;
    let late = request(&system, known, BuildId::new());
    producer
        .publish("build.requested", &[("ce-time", "2999-01-01T00:00:00Z")], late.encode_to_vec())
        .await;
    eventually("three dead letters", PATIENCE, async || {
        (dead_letters::count(&system.bus).await.unwrap() == 3).then_some(())
    })
    .await;

    let unknown = BuildId::new();
    producer
        .publish("build.requested", &[], request(&system, 999_999, unknown).encode_to_vec())
        .await;
    eventually("build.failed for the unknown function", PATIENCE, async || {
        (producer.count("build.failed").await == 1).then_some(())
    })
    .await;

    let too_large =
        producer.jetstream.publish("build.requested", vec![b'x'; 2 * 1024 * 1024].into()).await;
    assert!(match too_large {
        Err(_) => true,
        Ok(ack) => ack.await.is_err(),
    });

    let good = BuildId::new();
    producer.publish("build.requested", &[], request(&system, known, good).encode_to_vec()).await;
    is_ready(&system, good).await;
}
