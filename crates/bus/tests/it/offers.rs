//! Messages that one replica passes on to another.

use std::sync::atomic::Ordering;

use mecapy_testkit::eventually;

use crate::chain::{Chain, PATIENCE, Replica};

const FOR_B: &str = "is-held-by b";

impl Replica {
    fn arrived(&self) -> usize {
        self.echo.seen.lock().unwrap().len()
    }

    fn passed_on(&self) -> usize {
        self.echo.passed_on.load(Ordering::SeqCst)
    }

    fn handled(&self) -> usize {
        self.echo.followed.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_message_is_passed_on_handled_there_and_acknowledged_once() {
    let chain = Chain::start().await;
    let (a, b) = (chain.replica_named("a").await, chain.replica_named("b").await);
    a.echo.let_go.cancel();
    b.echo.let_go.cancel();
    let mut count = 0;
    // Either gets it, and where an answer comes too late it is handled where it is.
    while a.passed_on() == 0 {
        chain.publish(&format!("for-b-{count}"), FOR_B).await;
        count += 1;
        eventually("it is done", PATIENCE, async || {
            (a.handled() + b.handled() == count).then_some(())
        })
        .await;
    }
    assert!(b.handled() >= a.passed_on());
    eventually("all is acknowledged", PATIENCE, async || chain.is_finished().await.then_some(()))
        .await;
    assert_eq!(chain.count("PIPELINE", "scan.done").await, count);
}

#[tokio::test]
async fn a_replica_without_a_free_slot_takes_nothing_and_neither_does_one_that_is_not_there() {
    let chain = Chain::start().await;
    let b = chain.replica_named("b").await;
    for number in 0..4 {
        chain.publish(&format!("own-{number}"), "is-held").await;
    }
    eventually("every slot is taken", PATIENCE, async || (b.arrived() == 4).then_some(())).await;
    let a = chain.replica_named("a").await;
    a.echo.let_go.cancel();
    chain.publish("for-b", FOR_B).await;
    chain.publish("for-nobody", "is-held-by nobody at all").await;
    eventually("they are handled where they are", PATIENCE, async || {
        (a.handled() == 2).then_some(())
    })
    .await;
    assert_eq!((a.passed_on(), b.arrived()), (0, 4));
    b.echo.let_go.cancel();
    eventually("all is acknowledged", PATIENCE, async || chain.is_finished().await.then_some(()))
        .await;
}

#[tokio::test]
async fn what_was_passed_on_to_a_replica_that_must_end_comes_back() {
    let chain = Chain::start().await;
    let (a, b) = (chain.replica_named("a").await, chain.replica_named("b").await);
    a.echo.let_go.cancel();
    let mut count = 0;
    while a.passed_on() == 0 {
        chain.publish(&format!("held-{count}"), FOR_B).await;
        count += 1;
        // Where b has no slot any more, a handles it.
        eventually("somebody has it", PATIENCE, async || {
            (b.arrived() + a.handled() >= count).then_some(())
        })
        .await;
    }
    b.shutdown.cancel();
    b.hand_back.cancel();
    b.task.await.unwrap();
    assert_eq!(b.echo.followed.load(Ordering::SeqCst), 0);
    eventually("the other one does it", PATIENCE, async || (a.handled() == count).then_some(()))
        .await;
    eventually("all is acknowledged", PATIENCE, async || chain.is_finished().await.then_some(()))
        .await;
    assert_eq!(chain.count("PIPELINE", "scan.done").await, count);
}
