//! What a receiver may answer, and what follows.

use mecapy_notifier::Options;
use mecapy_store::deliveries::DeliveryState;
use mecapy_store::webhooks::{self, Notice};

use crate::receiver::{Answer, Receiver};
use crate::world::{World, config, told};

#[tokio::test]
async fn after_failures_the_same_message_is_tried_again_until_it_is_taken() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([
        Answer::with("500 Internal Server Error", "", "out of \u{1b}[1morder\n"),
        Answer::Bytes(b"this is not HTTP\r\n\r\n".to_vec()),
        Answer::Bytes(Vec::new()),
    ])
    .await;
    let (webhook, secret) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let id = world.delivery("a try has failed", webhook.id, |d| d.error.is_some()).await.id;
    for tries in 1..=3 {
        world.attempts(id, tries).await;
        world.time_passes(id).await;
    }
    let delivered = world.delivery_is(webhook.id, DeliveryState::Delivered).await;
    assert_eq!((delivered.attempt, delivered.status, delivered.error), (4, Some(204), None));
    let requests = receiver.requests();
    assert_eq!(requests.len(), 4);
    for request in &requests {
        assert_eq!(request.header("webhook-id"), requests[0].header("webhook-id"));
        assert_eq!(request.body, requests[0].body);
        assert!(request.is_signed_with(&secret), "at each try anew, with its time");
    }
    let attempts = world.attempts(id, 4).await;
    let (first, second) = (&attempts[0], &attempts[1]);
    assert_eq!(first.status, Some(500));
    assert_eq!(
        first.error.as_deref(),
        Some("the receiver answered 500 Internal Server Error: out of [1morder")
    );
    assert_eq!(second.status, None);
    assert!(second.error.as_deref().unwrap().starts_with("no answer: "), "{second:?}");
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let (world, _notifier) = World::start().await;
    let elsewhere = Receiver::start([]).await;
    let location = format!("location: {}\r\n", elsewhere.url());
    let receiver = Receiver::start([
        Answer::with("302 Found", &location, ""),
        Answer::with("307 Temporary Redirect", &location, ""),
    ])
    .await;
    let (webhook, _) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let id = world.delivery("a try has failed", webhook.id, |d| d.error.is_some()).await.id;
    world.time_passes(id).await;
    let attempts = world.attempts(id, 2).await;
    assert_eq!((attempts[0].status, attempts[1].status), (Some(302), Some(307)));
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn gone_ends_the_webhook() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([Answer::status("410 Gone")]).await;
    let (webhook, _) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let delivery = world.delivery_is(webhook.id, DeliveryState::Dead).await;
    assert_eq!(delivery.status, Some(410));
    let disabled = webhooks::get(&world.pool, webhook.id).await.unwrap().unwrap();
    assert!(!disabled.enabled);
    assert_eq!(disabled.disabled_reason.as_deref(), Some("the receiver answered 410 Gone"));

    // Another webhook shows that the next event has been handled.
    let other = Receiver::start([]).await;
    told(&world, &other).await;
    world.publish(&world.pushed()).await;
    other.received(1).await;
    assert_eq!(world.deliveries(webhook.id).await.len(), 1);
    assert_eq!(receiver.requests().len(), 1);
    assert!(world.dead_letters().await.is_empty(), "a receiver that wants no more is no failure");
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_is_given_it() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([
        Answer::with("429 Too Many Requests", "retry-after: 600\r\n", ""),
        Answer::with("503 Service Unavailable", "retry-after: 99999999\r\n", ""),
    ])
    .await;
    let (webhook, _) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let first = world.delivery("a try has failed", webhook.id, |d| d.error.is_some()).await;
    let asked = world.attempts(first.id, 1).await[0].began_at;
    assert!((first.next_attempt_at - asked).num_seconds() >= 599);
    world.time_passes(first.id).await;
    world.attempts(first.id, 2).await;
    let second =
        world.delivery("the second has failed", webhook.id, |d| d.status == Some(503)).await;
    let hours = (second.next_attempt_at - chrono::Utc::now()).num_minutes() as f64 / 60.0;
    assert!((4.0..=6.1).contains(&hours), "bounded: {hours}");
}

#[tokio::test]
async fn a_receiver_that_answers_slowly_is_cut_off_and_holds_up_nobody() {
    let world = World::set_up().await;
    let quick = Receiver::start([]).await;
    let slow = Receiver::failing(Answer::Silence).await;
    let (silent, _) = told(&world, &slow).await;
    for _ in 0..20 {
        world.publish(&world.pushed()).await;
    }
    let mut limited = config();
    limited.notifier =
        Options { concurrency: 3, per_webhook: 2, timeout_seconds: 5, ..Options::default() };
    let _notifier = world.notifier(limited).await;
    // Two of the three slots are taken by the one that says nothing; the third is for others.
    slow.received(2).await;
    let (other, _) = world.webhook_of("another", &quick.url(), None, Notice::ALL).await;
    world.message(other.id, "push.done/1").await;
    quick.received(1).await;
    let cut_off =
        mecapy_testkit::eventually("a try is cut off", crate::world::PATIENCE, async || {
            world.deliveries(silent.id).await.into_iter().find(|delivery| delivery.error.is_some())
        })
        .await;
    assert_eq!(cut_off.error.as_deref(), Some("no answer within 5 s"));
}

#[tokio::test]
async fn an_owner_whose_receivers_are_all_silent_holds_up_nobody_else() {
    let world = World::set_up().await;
    let silent = Receiver::failing(Answer::Silence).await;
    for _ in 0..4 {
        let (webhook, _) = told(&world, &silent).await;
        for number in 0..20 {
            world.message(webhook.id, &format!("push.done/{number}")).await;
        }
    }
    let mut patient = config();
    // Nobody is cut off as long as the test lasts: whoever is served has a slot that was kept for others.
    (patient.notifier.concurrency, patient.notifier.per_webhook) = (8, 2);
    let _notifier = world.notifier(patient).await;
    silent.received(2).await;
    let quick = Receiver::start([]).await;
    let (other, _) = world.webhook_of("another", &quick.url(), None, Notice::ALL).await;
    world.message(other.id, "push.done/1").await;
    quick.received(1).await;
    assert_eq!(silent.requests().len(), 2, "a quarter of eight is one owner's");
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([Answer::Drip]).await;
    let (webhook, _) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let delivered = world.delivery_is(webhook.id, DeliveryState::Delivered).await;
    assert_eq!((delivered.attempt, delivered.status, delivered.error), (1, Some(200), None));
}

#[tokio::test]
async fn an_answer_without_end_is_read_in_part() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::failing(Answer::Flood).await;
    let (webhook, _) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let failed = world.delivery("a try has failed", webhook.id, |d| d.error.is_some()).await;
    assert_eq!(failed.status, Some(400), "{:?}", failed.error);
    assert!(failed.error.unwrap().len() < 300);
}

#[tokio::test]
async fn by_default_a_receiver_on_this_machine_is_not_called() {
    let world = World::set_up().await;
    let mut strict = config();
    strict.webhooks = mecapy_webhooks::Options::default();
    let _notifier = world.notifier(strict).await;
    let receiver = Receiver::start_tls().await;
    for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"] {
        let (webhook, _) = world.webhook(&format!("https://{host}:{}/", receiver.port)).await;
        world.publish(&world.pushed()).await;
        let failed =
            mecapy_testkit::eventually("a try has failed", crate::world::PATIENCE, async || {
                world
                    .deliveries(webhook.id)
                    .await
                    .into_iter()
                    .find(|delivery| delivery.error.is_some())
            })
            .await;
        let error = failed.error.unwrap();
        assert!(error.contains("a loopback address, which is not called"), "{host}: {error}");
    }
    assert!(receiver.requests().is_empty());
}
