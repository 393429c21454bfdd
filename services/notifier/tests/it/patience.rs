//! A receiver that fails for days, and is sent no more.

use mecapy_store::deliveries::DeliveryState;
use mecapy_store::webhooks::{self, Webhook};
use mecapy_testkit::eventually;
use uuid::Uuid;

use crate::receiver::{Answer, Receiver};
use crate::world::{PATIENCE, World, told};

const OUT_OF_ORDER: &str = "500 Internal Server Error";

async fn webhook(world: &World, id: Uuid) -> Webhook {
    webhooks::get(&world.pool, id).await.unwrap().unwrap()
}

/// It has failed for that long, as an interval of PostgreSQL.
async fn fails_for(world: &World, id: Uuid, long: &str) {
    let sql =
        format!("update webhooks set failing_since = now() - interval '{long}' where id = $1");
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).execute(&world.pool).await.unwrap();
}

/// Its receiver is another from now on.
async fn leads_to(world: &World, id: Uuid, receiver: &Receiver) {
    let change = sqlx::query("update webhooks set url = $2 where id = $1").bind(id);
    change.bind(receiver.url()).execute(&world.pool).await.unwrap();
}

/// An event whose delivery is tried once, and at the end of its day once more; its id.
async fn is_given_up(world: &World, webhook: Uuid) -> Uuid {
    let id = world.message(webhook, &format!("push.done/{}", Uuid::now_v7())).await;
    world.attempts(id, 1).await;
    world.the_day_passes(id).await;
    eventually("it is given up", PATIENCE, async || {
        let all = world.deliveries(webhook).await;
        all.iter().any(|one| one.id == id && one.state == DeliveryState::Dead).then_some(())
    })
    .await;
    id
}

#[tokio::test]
async fn a_receiver_that_took_nothing_for_five_days_is_sent_no_more_until_it_is_enabled() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::failing(Answer::status(OUT_OF_ORDER)).await;
    let (told_webhook, _) = told(&world, &receiver).await;
    let id = told_webhook.id;
    is_given_up(&world, id).await;
    let failing = webhook(&world, id).await;
    assert!(failing.enabled && failing.failing_since.is_some(), "a day is not enough");

    // What waits beside the one that is given up, for its next try.
    let waiting = world.message(id, "push.done/waiting").await;
    world.attempts(waiting, 1).await;
    fails_for(&world, id, "5 days").await;
    is_given_up(&world, id).await;
    let disabled = eventually("it is disabled", PATIENCE, async || {
        Some(webhook(&world, id).await).filter(|webhook| !webhook.enabled)
    })
    .await;
    let reason = disabled.disabled_reason.unwrap();
    assert!(
        reason.starts_with(
            "no message was delivered for 5 days; the last try: the receiver answered 500"
        ),
        "{reason}"
    );
    let all = world.deliveries(id).await;
    let waited = all.iter().find(|one| one.id == waiting).unwrap();
    assert_eq!(waited.state, DeliveryState::Dead);
    assert!(waited.error.as_deref().unwrap().starts_with("the webhook is disabled: "));
    eventually("both that were given up are dead letters", PATIENCE, async || {
        (world.dead_letters().await.len() == 2).then_some(())
    })
    .await;

    let mut conn = world.pool.acquire().await.unwrap();
    let enabled = webhooks::enable(&mut conn, id).await.unwrap().unwrap();
    assert!(
        enabled.enabled && enabled.failing_since.is_none() && enabled.disabled_reason.is_none()
    );
    is_given_up(&world, id).await;
    assert!(webhook(&world, id).await.enabled, "it has five days again");
}

#[tokio::test]
async fn one_success_begins_the_days_anew_and_a_failed_try_alone_ends_nothing() {
    let (world, _notifier) = World::start().await;
    let broken = Receiver::failing(Answer::status(OUT_OF_ORDER)).await;
    let (told_webhook, _) = told(&world, &broken).await;
    let id = told_webhook.id;
    let first = world.message(id, "push.done/1").await;
    world.attempts(first, 1).await;
    fails_for(&world, id, "9 days").await;
    assert!(webhook(&world, id).await.enabled, "only a message that is given up can end it");

    let whole = Receiver::start([]).await;
    leads_to(&world, id, &whole).await;
    world.time_passes(first).await;
    world.delivery_is(id, DeliveryState::Delivered).await;
    assert!(webhook(&world, id).await.failing_since.is_none());

    leads_to(&world, id, &broken).await;
    is_given_up(&world, id).await;
    let failing = webhook(&world, id).await;
    let since = failing.failing_since.unwrap();
    assert!(
        failing.enabled && (chrono::Utc::now() - since).num_days() < 1,
        "since its own failure"
    );
}
