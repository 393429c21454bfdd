//! Several notifiers, and what one that dies leaves.

use std::collections::BTreeSet;
use std::time::Duration;

use mecapy_store::deliveries::{self, Attempt, Claim, DeliveryState, Verdict};
use mecapy_testkit::eventually;

use crate::receiver::{Answer, Receiver};
use crate::world::{PATIENCE, World, config, told};

fn claim_of(number: u32) -> Claim<'static> {
    Claim {
        most: number,
        per_owner: number,
        per_webhook: number,
        under_way: &[],
        lease: Duration::from_secs(600),
    }
}

#[tokio::test]
async fn replicas_share_the_work_and_deliver_each_message_once() {
    let world = World::set_up().await;
    let receiver = Receiver::start([]).await;
    let (webhook, _) = told(&world, &receiver).await;
    for _ in 0..40 {
        world.publish(&world.pushed()).await;
    }
    let (_one, _two) = (world.notifier(config()).await, world.notifier(config()).await);
    eventually("all are delivered", PATIENCE, async || {
        let all = world.deliveries(webhook.id).await;
        let done = all.iter().filter(|delivery| delivery.state == DeliveryState::Delivered).count();
        (done == 40).then_some(())
    })
    .await;
    let requests = receiver.requests();
    let ids: BTreeSet<&str> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!((requests.len(), ids.len()), (40, 40));
}

#[tokio::test]
async fn what_a_killed_replica_had_taken_is_another_ones() {
    let world = World::set_up().await;
    let receiver = Receiver::start([]).await;
    let (webhook, _) = told(&world, &receiver).await;
    world.message(webhook.id, "push.done/x").await;
    // It takes it, and is never heard of again.
    let claim = claim_of(5);
    let taken = deliveries::claim(&world.pool, claim).await.unwrap().remove(0);
    assert!(deliveries::claim(&world.pool, claim).await.unwrap().is_empty(), "it is leased");
    let _notifier = world.notifier(config()).await;
    assert!(receiver.requests().is_empty());
    sqlx::query("update webhook_deliveries set leased_until = now()")
        .execute(&world.pool)
        .await
        .unwrap();
    receiver.received(1).await;
    let delivered = world.delivery_is(webhook.id, DeliveryState::Delivered).await;
    assert_eq!(delivered.attempt, 2);

    // It was only slow: what it has to say does not count any more.
    let late = Attempt {
        attempt: taken.attempt,
        began_at: chrono::Utc::now(),
        duration_ms: 1,
        status: Some(500),
        error: Some("late".to_owned()),
    };
    let dead = Verdict::Dead { letter: true };
    assert!(!deliveries::record(&world.pool, taken.id, &late, &dead).await.unwrap());
    assert_eq!(world.deliveries(webhook.id).await[0].state, DeliveryState::Delivered);
}

#[tokio::test]
async fn a_notifier_that_is_told_to_stop_ends_what_is_under_way() {
    let world = World::set_up().await;
    let mut limited = config();
    limited.notifier.timeout_seconds = 3;
    let notifier = world.notifier(limited).await;
    let receiver = Receiver::failing(Answer::Silence).await;
    let (webhook, _) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    receiver.received(1).await;
    // It ends by its limit, and is written down before the process goes.
    notifier.stop().await;
    let failed = world.deliveries(webhook.id).await.remove(0);
    assert_eq!(failed.error.as_deref(), Some("no answer within 3 s"));
    assert_eq!(failed.state, DeliveryState::Pending);
}

#[tokio::test]
async fn replicas_that_look_at_once_take_each_message_once() {
    let world = World::set_up().await;
    let (webhook, _) = world.webhook("https://hooks.example.com/").await;
    for number in 0..30 {
        world.message(webhook.id, &format!("push.done/{number}")).await;
    }
    let mut taken = Vec::new();
    while taken.len() < 30 {
        let look = || deliveries::claim(&world.pool, claim_of(3));
        let (one, two, three, four) = tokio::join!(look(), look(), look(), look());
        let before = taken.len();
        for claimed in [one, two, three, four] {
            taken.extend(claimed.unwrap().into_iter().map(|claimed| (claimed.id, claimed.attempt)));
        }
        assert!(taken.len() > before, "somebody takes something as long as there is something");
    }
    assert!(taken.iter().all(|(_, attempt)| *attempt == 1));
    assert_eq!(taken.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len(), 30);
}

#[tokio::test]
async fn tries_that_learn_at_once_that_a_receiver_is_gone_do_not_lock_one_another_out() {
    let world = World::set_up().await;
    for _ in 0..20 {
        let (webhook, _) = world.webhook("https://hooks.example.com/").await;
        for number in 0..4 {
            world.message(webhook.id, &format!("push.done/{number}")).await;
        }
        let claimed = deliveries::claim(&world.pool, claim_of(4)).await.unwrap();
        assert_eq!(claimed.len(), 4);
        let gone = |nth: usize| {
            let (pool, id, attempt) = (&world.pool, claimed[nth].id, claimed[nth].attempt);
            async move {
                let attempt = Attempt {
                    attempt,
                    began_at: chrono::Utc::now(),
                    duration_ms: 1,
                    status: Some(410),
                    error: Some("the receiver answered 410 Gone".to_owned()),
                };
                deliveries::record(pool, id, &attempt, &Verdict::Gone).await.unwrap()
            }
        };
        let recorded = tokio::join!(gone(0), gone(1), gone(2), gone(3));
        // The first disables the webhook and gives up the others with it.
        let first = [recorded.0, recorded.1, recorded.2, recorded.3];
        assert_eq!(first.iter().filter(|is_first| **is_first).count(), 1);
        let all = world.deliveries(webhook.id).await;
        assert!(all.iter().all(|delivery| delivery.state == DeliveryState::Dead));
    }
}
