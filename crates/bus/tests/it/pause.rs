//! A replica that takes nothing for a while, and the orders for it.

use futures::StreamExt as _;
use mecapy_bus::{DrainOrder, Drains, Flow};
use mecapy_testkit::eventually;

use crate::chain::{Chain, PATIENCE};
use crate::offers::{FOR_B, all_went_on};

#[tokio::test]
async fn a_paused_replica_finishes_what_it_has_and_takes_nothing_of_the_queue_or_of_others() {
    let chain = Chain::start().await;
    let b = chain.replica_named("b").await;
    chain.publish("held", "is-held").await;
    eventually("it has one", PATIENCE, async || (b.arrived() == 1).then_some(())).await;
    b.pause.set(true);
    // More than it has slots, and each is offered to it.
    let offered: Vec<String> = (0..8).map(|number| format!("for-b-{number}")).collect();
    for build in &offered {
        chain.publish(build, FOR_B).await;
    }
    let a = chain.replica_named("a").await;
    a.echo.let_go.cancel();
    eventually("the other handles them", PATIENCE, async || a.has_handled(&offered).then_some(()))
        .await;
    assert_eq!((a.passed_on(), b.arrived()), (0, 1));
    assert_eq!(b.pause.flow(), Flow::Finishes, "it has something in hand");
    b.echo.let_go.cancel();
    let rests = async || (b.pause.flow() == Flow::Rests).then_some(());
    eventually("it has nothing any more", PATIENCE, rests).await;
    assert!(b.handled() == 1 || a.got_what_was_lost(), "it finishes what it has");
    all_went_on(&chain, 9).await;

    a.shutdown.cancel();
    a.task.await.unwrap();
    b.pause.set(false);
    chain.publish("again", "").await;
    let again = ["again".to_owned()];
    eventually("it takes messages again", PATIENCE, async || b.has_handled(&again).then_some(()))
        .await;
    all_went_on(&chain, 10).await;
}

#[tokio::test]
async fn a_replica_that_is_taken_back_takes_messages_while_it_still_finishes_others() {
    let chain = Chain::start().await;
    let replica = chain.replica().await;
    chain.publish("held", "is-held").await;
    eventually("it has one", PATIENCE, async || (replica.arrived() == 1).then_some(())).await;
    replica.pause.set(true);
    replica.pause.set(false);
    for number in 0..8 {
        chain.publish(&format!("more-{number}"), "").await;
    }
    eventually("the others are handled", PATIENCE, async || (replica.handled() == 8).then_some(()))
        .await;
    replica.pause.set(true);
    // The end of the process comes while it is paused and has one.
    replica.shutdown.cancel();
    replica.echo.let_go.cancel();
    replica.task.await.unwrap();
    all_went_on(&chain, 9).await;
}

#[tokio::test]
async fn an_order_that_cannot_be_read_is_one_and_is_lifted_as_any() {
    let chain = Chain::start().await;
    let drains = Drains::new(chain.bus.clone());
    let jetstream = async_nats::jetstream::new(chain.client.clone());
    let bucket = jetstream.get_key_value("drains").await.unwrap();
    let mut heard = drains.watch("host").await.unwrap();
    let mut next = async || tokio::time::timeout(PATIENCE, heard.next()).await.unwrap();
    // Of another version, cut off, of another kind, nothing at all.
    for body in ["{\"worker\": 7}", "{\"worker\": \"host\", \"by\"", "[]", ""] {
        bucket.put("host", body.into()).await.unwrap();
        assert_eq!(next().await, Some(true), "{body:?}");
        assert!(drains.is_given("host").await.unwrap(), "{body:?}");
        drains.lift("host").await.unwrap();
        assert_eq!(next().await, Some(false), "{body:?}");
        assert!(!drains.is_given("host").await.unwrap(), "{body:?}");
    }
}

#[tokio::test]
async fn an_order_stands_until_it_is_lifted_and_is_heard_by_its_worker() {
    let chain = Chain::start().await;
    let drains = Drains::new(chain.bus.clone());
    let order = |worker: &str| DrainOrder {
        worker: worker.to_owned(),
        by: "ops".to_owned(),
        at: Default::default(),
    };
    let mut heard = drains.watch("host b:9100").await.unwrap();
    assert!(!drains.is_given("host b:9100").await.unwrap());
    for worker in ["host b:9100", "a"] {
        drains.give(&order(worker)).await.unwrap();
    }
    let mut next = async || tokio::time::timeout(PATIENCE, heard.next()).await.unwrap();
    assert_eq!(next().await, Some(true));
    assert_eq!(drains.list().await.unwrap(), [order("a"), order("host b:9100")]);
    // Who listens later hears of it too.
    let mut late = drains.watch("host b:9100").await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, late.next()).await.unwrap(), Some(true));

    drains.lift("host b:9100").await.unwrap();
    drains.lift("nobody").await.unwrap();
    assert_eq!(next().await, Some(false));
    assert!(!drains.is_given("host b:9100").await.unwrap());
    assert_eq!(drains.list().await.unwrap(), [order("a")]);
}
