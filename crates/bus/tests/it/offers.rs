//! Messages that one replica passes on to another.

use std::sync::atomic::Ordering;

use mecapy_testkit::eventually;

use crate::chain::{Chain, PATIENCE, Replica};

pub const FOR_B: &str = "is-held-by b";
/// Of a replica.
const SLOTS: usize = 4;

impl Replica {
    pub fn arrived(&self) -> usize {
        self.echo.seen.lock().unwrap().len()
    }

    pub fn passed_on(&self) -> usize {
        self.echo.passed_on.load(Ordering::SeqCst)
    }

    pub fn handled(&self) -> usize {
        self.echo.done.lock().unwrap().len()
    }

    pub fn has_handled(&self, builds: &[String]) -> bool {
        let done = self.echo.done.lock().unwrap();
        builds.iter().all(|build| done.contains(build))
    }

    /// Something came here that had been taken for lost: who has what is chance then.
    pub fn got_what_was_lost(&self) -> bool {
        self.echo.again.load(Ordering::SeqCst) > 0
    }
}

/// Acknowledged, and each once in what follows; what can't be sent at once, the outbox sends later.
pub async fn all_went_on(chain: &Chain, count: usize) {
    eventually("all is acknowledged", PATIENCE, async || chain.is_finished().await.then_some(()))
        .await;
    eventually("all went on", PATIENCE, async || {
        (chain.count("PIPELINE", "scan.done").await >= count).then_some(())
    })
    .await;
    assert_eq!(chain.count("PIPELINE", "scan.done").await, count);
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
    assert!(b.handled() >= a.passed_on() || a.got_what_was_lost());
    all_went_on(&chain, count).await;
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
    let both = ["for-b", "for-nobody"].map(str::to_owned);
    eventually("they are handled where they are", PATIENCE, async || {
        a.has_handled(&both).then_some(())
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
    let a = chain.replica_named("a").await;
    a.echo.let_go.cancel();
    let mut count = 0;
    let end = async |b: Replica| {
        b.shutdown.cancel();
        b.hand_back.cancel();
        b.task.await.unwrap();
        assert_eq!(b.echo.done.lock().unwrap().len(), 0);
    };
    loop {
        let b = chain.replica_named("b").await;
        for _ in 0..SLOTS {
            chain.publish(&format!("held-{count}"), FOR_B).await;
            count += 1;
            eventually("somebody has it", PATIENCE, async || {
                (b.arrived() + a.handled() >= count).then_some(())
            })
            .await;
        }
        let is_passed_on = a.passed_on() > 0;
        end(b).await;
        // One whose slots were all taken by what it got itself, or answered too late, is followed by another.
        if is_passed_on {
            break;
        }
    }
    eventually("the other one does it", PATIENCE, async || (a.handled() == count).then_some(()))
        .await;
    all_went_on(&chain, count).await;
}
