//! The event chain against a real NATS and a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on fails")]

mod chain;
mod live;
mod offers;
mod pause;
mod traces;

use std::sync::atomic::Ordering;

use chain::{Chain, PATIENCE, SCANNER};
use futures::StreamExt as _;
use mecapy_bus::{Outbox, Outgoing, WorkerStatus, Workers, dead_letters, topology};
use mecapy_proto::v1::{BuildDone, ScanDone};
use mecapy_store::outbox;
use mecapy_testkit::eventually;
use tokio_util::sync::CancellationToken;

async fn nothing_unfinished(chain: &Chain) {
    eventually("all messages are acknowledged", PATIENCE, async || {
        chain.is_finished().await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_that_comes_twice_has_its_effect_once() {
    let chain = Chain::start().await;
    let replica = chain.replica().await;
    chain.publish("b1", "").await;
    eventually("the event went on", PATIENCE, async || {
        (chain.count("PIPELINE", "scan.done").await == 1).then_some(())
    })
    .await;
    chain.publish("b1", "").await;
    chain.publish("b2", "").await;
    nothing_unfinished(&chain).await;
    assert_eq!(chain.count("PIPELINE", "scan.done").await, 2);
    assert_eq!(
        *replica.echo.seen.lock().unwrap(),
        ["b1", "b2"],
        "the second b1 was known by the inbox"
    );
    assert_eq!(replica.handled(), 2);
    eventually("the outbox is empty", PATIENCE, async || {
        (outbox::waiting(&chain.pool, "test").await.unwrap() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_read_is_a_dead_letter_and_the_queue_goes_on() {
    let chain = Chain::start().await;
    let _replica = chain.replica().await;
    chain.publish_raw(b"\xff\xff not an event".to_vec()).await;
    chain.publish_raw(b"{\"verdict\": ".to_vec()).await;
    chain.publish("b1", "").await;
    nothing_unfinished(&chain).await;
    assert_eq!(chain.count("PIPELINE", "scan.done").await, 1);
    let letters = dead_letters::list(&chain.bus, 0, 10).await.unwrap();
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().any(|letter| letter.reason.contains("as protobuf")), "{letters:?}");
    assert!(letters.iter().any(|letter| letter.reason.contains("as JSON")), "{letters:?}");
    assert!(
        letters.iter().all(|letter| letter.subject == "build.done" && letter.consumer == "scanner")
    );
}

#[tokio::test]
async fn a_passing_failure_is_tried_again() {
    let chain = Chain::start().await;
    let replica = chain.replica().await;
    chain.publish("b1", "fails-once").await;
    eventually("the event went on", PATIENCE, async || {
        (chain.count("PIPELINE", "scan.done").await == 1).then_some(())
    })
    .await;
    assert_eq!(replica.echo.calls.load(Ordering::SeqCst), 2);
    assert_eq!(dead_letters::count(&chain.bus).await.unwrap(), 0);
}

#[tokio::test]
async fn a_lasting_failure_is_a_dead_letter_that_can_be_replayed_or_dropped() {
    let chain = Chain::start().await;
    let replica = chain.replica().await;
    chain.publish("b1", "is-hopeless").await;
    chain.publish("b2", "is-hopeless").await;
    nothing_unfinished(&chain).await;
    let letters = dead_letters::list(&chain.bus, 0, 10).await.unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].reason, "it will never work");
    assert_eq!(letters[0].body["tag"], "is-hopeless", "the body is shown as JSON");

    assert!(dead_letters::drop_letter(&chain.bus, letters[1].id).await.unwrap());
    assert!(!dead_letters::drop_letter(&chain.bus, letters[1].id).await.unwrap());
    assert!(dead_letters::get(&chain.bus, letters[1].id).await.unwrap().is_none());

    assert!(dead_letters::replay(&chain.bus, letters[0].id).await.unwrap());
    eventually("it was tried again", PATIENCE, async || {
        (replica.echo.calls.load(Ordering::SeqCst) == 3).then_some(())
    })
    .await;
    eventually("it is a dead letter again, once", PATIENCE, async || {
        (dead_letters::count(&chain.bus).await.unwrap() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_process_left_in_the_outbox_is_sent_by_a_living_one() {
    let chain = Chain::start().await;
    let event = ScanDone { build_id: "left".to_owned(), ..Default::default() };
    let dead = CancellationToken::new();
    dead.cancel();
    let left = Outbox::start(chain.bus.clone(), chain.pool.clone(), "test", dead);
    let mut transaction = chain.pool.begin().await.unwrap();
    let _unsent = left.write(&mut transaction, Outgoing::event(&event)).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(outbox::waiting(&chain.pool, "test").await.unwrap(), 1);

    let _replica = chain.replica().await;
    eventually("the relay sent it", PATIENCE, async || {
        (outbox::waiting(&chain.pool, "test").await.unwrap() == 0).then_some(())
    })
    .await;
    assert_eq!(chain.count("PIPELINE", "scan.done").await, 1);
}

#[tokio::test]
async fn replicas_share_the_work_and_each_event_is_handled_once() {
    let chain = Chain::start().await;
    let (first, second) = (chain.replica().await, chain.replica().await);
    for number in 0..40 {
        chain.publish(&format!("b{number}"), "is-held").await;
    }
    // Who holds some has no room for the rest.
    eventually("both have some", PATIENCE, async || {
        let has_some = |replica: &chain::Replica| replica.echo.calls.load(Ordering::SeqCst) > 0;
        (has_some(&first) && has_some(&second)).then_some(())
    })
    .await;
    for replica in [&first, &second] {
        replica.echo.let_go.cancel();
    }
    nothing_unfinished(&chain).await;
    let was_slow = first.got_what_was_lost() || second.got_what_was_lost();
    let (first, second) =
        (first.echo.calls.load(Ordering::SeqCst), second.echo.calls.load(Ordering::SeqCst));
    assert!(first + second == 40 || was_slow, "{first} and {second}");
    assert!(first > 0 && second > 0, "{first} and {second}");
    assert_eq!(chain.count("PIPELINE", "scan.done").await, 40);
}

#[tokio::test]
async fn a_consumer_that_was_deleted_is_bound_again_when_it_is_back() {
    let chain = Chain::start().await;
    let _replica = chain.replica().await;
    chain.publish("b1", "").await;
    nothing_unfinished(&chain).await;
    let jetstream = async_nats::jetstream::new(chain.client.clone());
    jetstream.delete_consumer_from_stream(SCANNER.name, SCANNER.stream).await.unwrap();
    topology::setup(&chain.bus, &topology::Setup::default()).await.unwrap();
    chain.publish("b2", "").await;
    eventually("the event went on", PATIENCE, async || {
        (chain.count("PIPELINE", "scan.done").await == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_still_runs_at_the_end_is_handed_to_another_replica() {
    let chain = Chain::start().await;
    let first = chain.replica().await;
    chain.publish("b1", "takes-forever").await;
    eventually("the first replica has it", PATIENCE, async || {
        (first.echo.calls.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    first.shutdown.cancel();
    first.hand_back.cancel();
    first.task.await.unwrap();
    let second = chain.replica().await;
    eventually("the second replica ends it", PATIENCE, async || {
        (chain.count("PIPELINE", "scan.done").await == 1).then_some(())
    })
    .await;
    assert_eq!(second.echo.calls.load(Ordering::SeqCst), 1);
}

/// One thread: so nothing of the replica runs while this test blocks it.
#[tokio::test(flavor = "current_thread")]
async fn what_is_sent_to_a_replica_that_ends_goes_to_another_at_once() {
    let chain = Chain::start().await;
    let first = chain.replica().await;
    chain.publish("b0", "").await;
    nothing_unfinished(&chain).await;
    let told = format!("$JS.ACK.{}.{}.>", SCANNER.stream, SCANNER.name);
    let mut told = chain.client.subscribe(told).await.unwrap();
    chain.client.flush().await.unwrap();
    let mut count = 1;
    while !chain.publish_while_blocked(&format!("b{count}")) {
        nothing_unfinished(&chain).await;
        count += 1;
    }
    first.shutdown.cancel();
    first.task.await.unwrap();
    let _second = chain.replica().await;
    eventually("the event went on", PATIENCE, async || {
        (chain.count("PIPELINE", "scan.done").await == count + 1).then_some(())
    })
    .await;
    // It was handed back, however long that took: nobody waited until it was taken for lost.
    let mut answers = Vec::new();
    while answers.iter().filter(|answer| **answer == "+ACK").count() < count {
        let answer = tokio::time::timeout(PATIENCE, told.next()).await.unwrap().unwrap();
        answers.push(String::from_utf8_lossy(&answer.payload).into_owned());
    }
    assert!(answers.contains(&"-NAK".to_owned()), "{answers:?}");
}

#[tokio::test]
async fn a_slot_is_free_when_the_rest_of_its_work_is_done_and_the_message_before() {
    let chain = Chain::start().await;
    let replica = chain.replica().await;
    for number in 0..4 {
        chain.publish(&format!("b{number}"), "has-a-rest").await;
    }
    nothing_unfinished(&chain).await;
    assert_eq!(chain.count("PIPELINE", "scan.done").await, 4);
    assert_eq!(replica.echo.rested.load(Ordering::SeqCst), 4);
    chain.publish("b4", "").await;
    // Another replica's slots are free.
    let second = chain.replica().await;
    eventually("the second has it", PATIENCE, async || {
        (second.echo.calls.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    assert_eq!(replica.echo.calls.load(Ordering::SeqCst), 4, "a slot took another too early");
    replica.echo.let_go.cancel();
    second.shutdown.cancel();
    second.task.await.unwrap();
    chain.publish("b5", "").await;
    eventually("the first takes more", PATIENCE, async || {
        (replica.echo.calls.load(Ordering::SeqCst) == 5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_trace_goes_on_in_what_an_event_causes() {
    let chain = Chain::start().await;
    let _replica = chain.replica().await;
    let mut scans = chain.client.subscribe("scan.done").await.unwrap();
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", traceparent);
    let body =
        serde_json::to_vec(&BuildDone { build_id: "b1".to_owned(), ..Default::default() }).unwrap();
    let jetstream = async_nats::jetstream::new(chain.client.clone());
    jetstream
        .publish_with_headers("build.done", headers, body.into())
        .await
        .unwrap()
        .await
        .unwrap();
    let scan = tokio::time::timeout(PATIENCE, scans.next()).await.unwrap().unwrap();
    let headers = scan.headers.unwrap();
    assert!(
        headers.get("traceparent").unwrap().as_str().contains("4bf92f3577b34da6a3ce929d0e0e4736")
    );
    assert_eq!(headers.get("ce-type").unwrap().as_str(), "scan.done");
    assert_eq!(headers.get("ce-id").unwrap().as_str(), "scan.done/b1");
    assert_eq!(headers.get("ce-source").unwrap().as_str(), "mecapy/test");
}

#[tokio::test]
async fn a_handler_that_panics_and_a_message_that_barely_fits_are_dead_letters_too() {
    let chain = Chain::start().await;
    let _replica = chain.replica().await;
    chain.publish("b1", "panics").await;
    chain.publish_raw(vec![0xff; 1024 * 1024]).await;
    chain.publish("b2", "").await;
    nothing_unfinished(&chain).await;
    assert_eq!(chain.count("PIPELINE", "scan.done").await, 1);
    let letters = dead_letters::list(&chain.bus, 0, 10).await.unwrap();
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().any(|letter| letter.reason.contains("panicked")), "{letters:?}");
}

#[tokio::test]
async fn workers_that_live_are_listed_and_who_says_nothing_is_forgotten() {
    let chain = Chain::start().await;
    let workers = Workers::new(chain.bus.clone());
    assert_eq!(workers.list().await.unwrap(), []);
    let status = |name: &str, running| WorkerStatus {
        name: name.to_owned(),
        slots: 2,
        running,
        ..WorkerStatus::default()
    };
    for said in [status("host b:9100", 0), status("a", 0), status("a", 1)] {
        workers.tell(&said).await.unwrap();
    }
    assert_eq!(workers.list().await.unwrap(), [status("a", 1), status("host b:9100", 0)]);
    workers.forget("a").await.unwrap();
    assert_eq!(workers.list().await.unwrap(), [status("host b:9100", 0)]);
    eventually("the silent one is forgotten", PATIENCE, async || {
        workers.list().await.unwrap().is_empty().then_some(())
    })
    .await;
}
