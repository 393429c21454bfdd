//! Given up, kept as a dead letter, and sent again.

use mecapy_bus::dead_letters;
use mecapy_store::deliveries::{self, DeliveryState};
use mecapy_testkit::eventually;

use crate::receiver::{Answer, Receiver};
use crate::world::{PATIENCE, World, told};

#[tokio::test]
async fn after_a_day_it_is_a_dead_letter_and_a_replay_delivers_it() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::failing(Answer::status("500 Internal Server Error")).await;
    let (webhook, secret) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let failed = world.delivery("a try has failed", webhook.id, |d| d.error.is_some()).await;
    assert_eq!(failed.state, DeliveryState::Pending);
    assert!(world.dead_letters().await.is_empty());

    world.the_day_passes(failed.id).await;
    let dead = world.delivery_is(webhook.id, DeliveryState::Dead).await;
    assert!(dead.attempt >= 2);
    let letter =
        eventually("a dead letter", PATIENCE, async || world.dead_letters().await.pop()).await;
    assert_eq!((letter.subject.as_str(), letter.service.as_str()), ("webhook.resend", "notifier"));
    assert_eq!(i64::from(dead.attempt), i64::try_from(letter.deliveries).unwrap());
    assert!(
        letter.reason.contains("was not delivered within a day: the receiver answered 500"),
        "{}",
        letter.reason
    );
    assert_eq!(letter.body["deliveryId"], failed.id.to_string());
    assert_eq!(letter.body["eventId"], failed.event_id);

    receiver.recovers();
    assert!(dead_letters::replay(&world.bus, letter.id).await.unwrap());
    let delivered = world.delivery_is(webhook.id, DeliveryState::Delivered).await;
    assert_eq!((delivered.round, delivered.attempt), (2, dead.attempt + 1));
    let requests = receiver.requests();
    let last = requests.last().unwrap();
    assert_eq!(i32::try_from(requests.len()).unwrap(), delivered.attempt);
    assert_eq!(last.header("webhook-id"), requests[0].header("webhook-id"));
    assert!(last.is_signed_with(&secret));
    assert!(world.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_dead_letter_of_a_round_that_is_over_sends_nothing_again() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::failing(Answer::status("500 Internal Server Error")).await;
    let (webhook, _) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let failed = world.delivery("a try has failed", webhook.id, |d| d.error.is_some()).await;
    world.the_day_passes(failed.id).await;
    let dead = world.delivery_is(webhook.id, DeliveryState::Dead).await;
    let letter =
        eventually("a dead letter", PATIENCE, async || world.dead_letters().await.pop()).await;

    // Somebody presses the button first.
    receiver.recovers();
    let mut conn = world.pool.acquire().await.unwrap();
    let again =
        deliveries::resend(&mut conn, failed.id, None, mecapy_notifier::A_DAY).await.unwrap();
    assert_eq!(again.map(|delivery| delivery.round), Some(2));
    world.delivery_is(webhook.id, DeliveryState::Delivered).await;
    dead_letters::replay(&world.bus, letter.id).await.unwrap();
    // The next event shows that the replay has been handled.
    eventually("the replay is handled", PATIENCE, async || {
        let handled: bool = sqlx::query_scalar(
            "select exists (select from inbox where consumer = 'webhook-resend')",
        )
        .fetch_one(&world.pool)
        .await
        .unwrap();
        handled.then_some(())
    })
    .await;
    let after = world.deliveries(webhook.id).await.remove(0);
    assert_eq!((after.state, after.round), (DeliveryState::Delivered, 2));
    assert_eq!(after.attempt, dead.attempt + 1);
}

#[tokio::test]
async fn what_was_delivered_can_be_sent_once_more() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([]).await;
    let (webhook, _) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let delivered = world.delivery_is(webhook.id, DeliveryState::Delivered).await;
    let mut conn = world.pool.acquire().await.unwrap();
    deliveries::resend(&mut conn, delivered.id, None, mecapy_notifier::A_DAY)
        .await
        .unwrap()
        .unwrap();
    let requests = receiver.received(2).await;
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    assert_eq!(requests[0].body, requests[1].body);
}
