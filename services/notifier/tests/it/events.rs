//! From an event to the receiver.

use mecapy_proto::{BuildId, Event as _, v1};
use mecapy_store::deliveries::DeliveryState;
use mecapy_store::functions;
use mecapy_store::webhooks::{self, Notice};
use mecapy_testkit::eventually;
use mecapy_webhooks::cloud_event::MAX_BYTES;

use crate::receiver::Receiver;
use crate::world::{PATIENCE, World, config, told};

#[tokio::test]
async fn an_event_that_comes_twice_is_delivered_once_and_signed() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([]).await;
    let (webhook, secret) = told(&world, &receiver).await;
    let event = world.pushed();
    world.publish(&event).await;
    world.publish_again(&event).await;
    let delivery = world.delivery_is(webhook.id, DeliveryState::Delivered).await;

    // A third copy, and another event after it: when that one has arrived, the copies are done with.
    world.publish_again(&event).await;
    let other = world.pushed();
    world.publish(&other).await;
    let requests = receiver.received(2).await;
    assert_eq!(requests.len(), 2);
    let request = &requests[0];
    assert_eq!(request.line, "POST /hook?team=a HTTP/1.1");
    assert_eq!(request.header("content-type"), "application/cloudevents+json");
    assert_eq!(request.header("webhook-id"), format!("msg_{}", delivery.id.simple()));
    assert!(request.is_signed_with(&secret));
    let body = request.json();
    assert_eq!(body["specversion"], "1.0");
    assert_eq!(body["type"], "push.done");
    assert_eq!(body["id"], event.message_id());
    assert_eq!(body["source"], format!("/functions/{}", world.function));
    assert_eq!(body["subject"], event.build_id.as_str());
    assert_eq!(
        (&body["owner"], &body["functionname"]),
        (&world.owner.as_str().into(), &"stats".into())
    );
    assert_eq!(body["data"], serde_json::to_value(&event).unwrap());
    assert_eq!(requests[1].json()["id"], other.message_id());
    assert_eq!(world.deliveries(webhook.id).await.len(), 2);
}

#[tokio::test]
async fn owners_are_told_what_they_asked_for_and_nothing_of_others() {
    let (world, _notifier) = World::start().await;
    let (all, ends, one, others) = (
        Receiver::start([]).await,
        Receiver::start([]).await,
        Receiver::start([]).await,
        Receiver::start([]).await,
    );
    told(&world, &all).await;
    world.webhook_for(&ends.url(), None, &[Notice::TaskEnded]).await;
    let mut conn = world.pool.acquire().await.unwrap();
    let owner = world.owner.parse().unwrap();
    let second = functions::ensure(&mut conn, &owner, "other").await.unwrap();
    drop(conn);
    world.webhook_for(&one.url(), Some(second), Notice::ALL).await;
    let (strange, _) = told(&world, &others).await;
    sqlx::query("update webhooks set owner = 'somebody-else' where id = $1")
        .bind(strange.id)
        .execute(&world.pool)
        .await
        .unwrap();

    let (build_id, function_id) = (BuildId::new().to_string(), world.function.get());
    let scan = |verdict: v1::Verdict| v1::ScanDone {
        build_id: BuildId::new().to_string(),
        function_id,
        verdict: verdict.into(),
        ..Default::default()
    };
    let base = "3.11-slim".to_owned();
    // Of these, nobody is told.
    world.publish(&scan(v1::Verdict::Passed)).await;
    world.publish(&v1::PushDone { base, ..world.pushed() }).await;
    // Of these, they are.
    world.publish(&scan(v1::Verdict::Rejected)).await;
    world
        .publish(&v1::BuildFailed { build_id: build_id.clone(), function_id, ..Default::default() })
        .await;
    world
        .publish(&v1::PushFailed { build_id: build_id.clone(), function_id, ..Default::default() })
        .await;
    world
        .publish(&v1::ScanRevoked { build_id: build_id.clone(), function_id, ..Default::default() })
        .await;
    world.publish(&world.task_done()).await;
    world.publish(&v1::PushDone { function_id: second.get(), ..world.pushed() }).await;

    let kinds = |requests: Vec<crate::receiver::Request>| {
        let mut kinds: Vec<String> = requests
            .iter()
            .map(|request| request.json()["type"].as_str().unwrap().to_owned())
            .collect();
        kinds.sort();
        kinds
    };
    assert_eq!(
        kinds(all.received(6).await),
        ["build.failed", "push.done", "push.failed", "scan.done", "scan.revoked", "task.done"]
    );
    assert_eq!(kinds(ends.received(1).await), ["task.done"]);
    assert_eq!(kinds(one.received(1).await), ["push.done"]);
    assert!(others.requests().is_empty());
    let task = ends.requests()[0].json();
    assert_eq!(task["data"]["status"], "FAILED");
    assert!(task["data"].get("worker").is_none(), "the names of our machines are ours");
}

#[tokio::test]
async fn what_users_wrote_arrives_as_text_of_a_bounded_size() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([]).await;
    let (_, secret) = told(&world, &receiver).await;
    let hostile = "\u{0}\u{1b}[31m\r\n\"},{\"type\":\"push.done\"<script>\u{202e}\u{2028}ä";
    let event = v1::BuildFailed {
        build_id: BuildId::new().to_string(),
        function_id: world.function.get(),
        failure: Some(v1::Failure {
            code: "build-failed".to_owned(),
            message: hostile.to_owned(),
            log_tail: vec![hostile.repeat(2_000); 3],
        }),
        ..Default::default()
    };
    world.publish(&event).await;
    let request = receiver.received(1).await.remove(0);
    assert!(request.is_signed_with(&secret));
    assert!(request.body.len() <= MAX_BYTES, "{}", request.body.len());
    let body = request.json();
    assert_eq!(body["type"], "build.failed");
    assert_eq!(body["truncated"], true);
    assert_eq!(body["data"]["failure"]["message"], hostile);
}

#[tokio::test]
async fn a_receiver_with_tls_is_verified() {
    let world = World::set_up().await;
    let receiver = Receiver::start_tls().await;
    let (webhook, secret) = told(&world, &receiver).await;
    let strict = world.notifier(config()).await;
    world.publish(&world.pushed()).await;
    // A machine that stands still for ten seconds is another failure: the next try tells.
    let failed = eventually("a try has failed for the certificate", PATIENCE, async || {
        let delivery = world.deliveries(webhook.id).await.pop()?;
        let error = delivery.error.as_deref()?.to_lowercase();
        if error.contains("certificate") {
            return Some(delivery);
        }
        world.hurry(delivery.id).await;
        None
    })
    .await;
    assert!(receiver.requests().is_empty());
    // Its last try is over before the time passes: it would put the next one far away.
    strict.stop().await;

    let mut trusting = config();
    trusting.notifier.ca_bundle =
        Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/ca.pem").into());
    let _notifier = world.notifier(trusting).await;
    let request = eventually("it is delivered", PATIENCE, async || {
        world.hurry(failed.id).await;
        receiver.requests().pop()
    })
    .await;
    assert!(request.is_signed_with(&secret));
}

#[tokio::test]
async fn while_secrets_change_a_receiver_may_know_either() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([]).await;
    let (webhook, old) = told(&world, &receiver).await;
    let new = mecapy_webhooks::signature::new_secret().unwrap();
    let mut conn = world.pool.acquire().await.unwrap();
    webhooks::rotate(&mut conn, webhook.id, &new, mecapy_notifier::A_DAY).await.unwrap().unwrap();
    world.publish(&world.pushed()).await;
    let request = receiver.received(1).await.remove(0);
    assert!(request.is_signed_with(&old) && request.is_signed_with(new.expose()));

    sqlx::query("update webhooks set previous_until = now()").execute(&mut *conn).await.unwrap();
    world.publish(&world.pushed()).await;
    let request = receiver.received(2).await.remove(1);
    assert!(!request.is_signed_with(&old) && request.is_signed_with(new.expose()));
}

#[tokio::test]
async fn a_message_has_the_time_of_what_it_tells() {
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([]).await;
    told(&world, &receiver).await;
    let build = BuildId::new();
    for insert in [
        "insert into versions (function_id, version, python_version, base_variant, requirements, inputs_sha256)
         values ($2, 1, '3.11', 'slim', '', $1::uuid::text)",
        "insert into builds (id, function_id, version, state, ended_at)
         values ($1, $2, 1, 'ready', '2026-01-02T03:04:05Z')",
        "insert into scans (build_id, digest, engine, engine_version, database_version, database_partial, verdict,
             critical, high, medium, low, unknown, findings, report_key, sbom_key, duration_ms, revoked_at)
         values ($1, 'sha256:' || $2::bigint::text, 'osv', '1', '1', false, 'PASSED', 0, 0, 0, 0, 0, '[]', '', '', 1,
             '2026-06-07T08:09:10Z')",
    ] {
        sqlx::query(insert)
            .bind(build.uuid())
            .bind(world.function.get())
            .execute(&world.pool)
            .await
            .unwrap();
    }
    let (build_id, function_id) = (build.to_string(), world.function.get());
    world.publish(&v1::PushDone { build_id: build_id.clone(), ..world.pushed() }).await;
    world.publish(&v1::ScanRevoked { build_id, function_id, ..Default::default() }).await;
    let mut times: Vec<(String, String)> = receiver
        .received(2)
        .await
        .iter()
        .map(|request| {
            let text = |name: &str| request.json()[name].as_str().unwrap().to_owned();
            (text("type"), text("time")[..19].to_owned())
        })
        .collect();
    times.sort();
    let told = |kind: &str, time: &str| (kind.to_owned(), time.to_owned());
    assert_eq!(
        times,
        [told("push.done", "2026-01-02T03:04:05"), told("scan.revoked", "2026-06-07T08:09:10")]
    );
}
