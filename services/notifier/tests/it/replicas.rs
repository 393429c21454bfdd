//! Several notifiers, and what one that dies leaves.

use std::collections::BTreeSet;
use std::time::Duration;

use mecapy_store::deliveries::{self, Attempt, Claim, DeliveryState, Verdict};
use mecapy_testkit::eventually;

use crate::receiver::{Answer, Receiver};
use crate::world::{PATIENCE, World, config, told};

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
    let new = deliveries::NewDelivery {
        event_id: "push.done/x".to_owned(),
        event_type: "push.done".to_owned(),
        body: "{}".to_owned(),
        lasts: mecapy_notifier::A_DAY,
    };
    let mut conn = world.pool.acquire().await.unwrap();
    deliveries::insert(&mut conn, &[webhook.id], &new).await.unwrap();
    // It takes it, and is never heard of again.
    let claim = Claim { most: 5, per_webhook: 5, under_way: &[], lease: Duration::from_secs(600) };
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
    let receiver = Receiver::start([Answer::Silence]).await;
    let (webhook, _) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    receiver.received(1).await;
    notifier.shutdown.cancel();
    // It ends by its limit, and is written down before the process goes.
    tokio::time::timeout(PATIENCE, notifier.serving).await.unwrap().unwrap();
    let failed = world.deliveries(webhook.id).await.remove(0);
    assert_eq!(failed.error.as_deref(), Some("no answer within 3 s"));
    assert_eq!(failed.state, DeliveryState::Pending);
}
