//! Webhooks: who may make which, and what is seen of deliveries.

use mecapy_store::deliveries::{self, Attempt, Claim, NewDelivery, Verdict};
use mecapy_store::webhooks;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::door::{ACME, Answer, Door, OPS, OTHER, VIEWER, answer};

const URL: &str = "https://hooks.example.com/mecapy?key=k";
const A_DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

async fn call(door: &Door, token: &str, method: Method, path: &str) -> Answer {
    answer(door.http.request(method, format!("{}{path}", door.url)).bearer_auth(token)).await
}

async fn create(door: &Door, body: Value) -> Answer {
    door.post("/webhooks", body).await
}

fn id(answer: &Answer) -> Uuid {
    answer.text("/webhook_id").parse().unwrap()
}

/// A message to deliver, as the notifier writes it.
async fn message(door: &Door, webhook: Uuid, event: &str) -> Uuid {
    let new = NewDelivery {
        event_id: event.to_owned(),
        event_type: "push.done".to_owned(),
        body: json!({ "id": event, "text": "<b>\u{1b}" }).to_string(),
        lasts: A_DAY,
    };
    let mut conn = door.pool.acquire().await.unwrap();
    deliveries::insert(&mut conn, &[webhook], &new).await.unwrap()[0]
}

#[tokio::test]
async fn a_webhook_shows_its_secret_once() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let made = create(
        &door,
        json!({ "url": URL, "function_id": function, "events": ["failed", "ready"], "description": "ä" }),
    )
    .await;
    assert_eq!((made.status, made.header("cache-control")), (201, "no-store"));
    assert_eq!(made.header("location"), format!("/webhooks/{}", id(&made)));
    let secret = made.text("/secret").to_owned();
    assert!(secret.starts_with("whsec_"));
    assert_eq!(made.body["events"], json!(["ready", "failed"]));
    assert_eq!(
        (made.text("/url"), made.text("/owner"), &made.body["enabled"]),
        (URL, "acme", &json!(true))
    );

    let seen = door.get(&format!("/webhooks/{}", id(&made))).await;
    assert_eq!(seen.body["function_id"], function);
    let list = door.get("/webhooks").await;
    assert_eq!(list.body["webhooks"][0], seen.body);
    assert!(!seen.body.to_string().contains("whsec_") && !list.body.to_string().contains("whsec_"));

    let rotated = door.post(&format!("/webhooks/{}/secret", id(&made)), json!({})).await;
    assert_eq!((rotated.status, rotated.header("cache-control")), (200, "no-store"));
    assert!(rotated.text("/secret").starts_with("whsec_") && rotated.text("/secret") != secret);
    assert!(!rotated.text("/previous_secret_until").is_empty());
}

#[tokio::test]
async fn a_url_that_cannot_be_called_is_refused_with_the_reason() {
    let door = Door::open().await;
    for (url, why) in [
        ("http://hooks.example.com/", "https://"),
        ("https://127.0.0.1/", "a loopback address"),
        ("https://2130706433/", "a loopback address"),
        ("https://[::ffff:10.0.0.1]/", "a private network"),
        ("https://169.254.169.254/latest/meta-data", "metadata"),
        ("https://user:pass@hooks.example.com/", "user or password"),
        ("https://hooks.example.com:22/", "port 22"),
        ("hooks.example.com", "not a URL"),
        ("https://localhost/", "a loopback address"),
    ] {
        let refused = create(&door, json!({ "url": url })).await;
        assert_eq!(refused.problem(), (422, "webhook-refused", "url"), "{url}");
        assert!(refused.text("/detail").contains(why), "{url}: {}", refused.text("/detail"));
    }
    for (body, field) in [
        (json!({}), "url"),
        (json!({ "url": 5 }), "url"),
        (json!({ "url": URL, "events": [] }), "events"),
        (json!({ "url": URL, "events": ["push.done"] }), "events"),
        (json!({ "url": URL, "events": "ready" }), "events"),
        (json!({ "url": URL, "description": "x".repeat(201) }), "description"),
        (json!({ "url": URL, "description": "\0" }), "description"),
        (json!({ "url": URL, "secret": "mine" }), "secret"),
    ] {
        let refused = create(&door, body.clone()).await;
        assert_eq!(refused.problem(), (422, "invalid-field", field), "{body}");
    }
    let unknown = create(&door, json!({ "url": URL, "function_id": 999_999 })).await;
    assert_eq!(unknown.problem(), (404, "unknown-function", ""));
    assert_eq!(door.get("/webhooks").await.body["webhooks"], json!([]));
}

#[tokio::test]
async fn an_owner_has_a_bounded_number() {
    let door = Door::open().await;
    for _ in 0..50 {
        assert_eq!(create(&door, json!({ "url": URL })).await.status, 201);
    }
    let refused = create(&door, json!({ "url": URL })).await;
    assert_eq!(refused.problem(), (422, "too-many-webhooks", "url"));
    // Pages by key: each once, and no more.
    let (mut seen, mut token) = (std::collections::BTreeSet::new(), String::new());
    loop {
        let page = door.get(&format!("/webhooks?page_size=20&page_token={token}")).await;
        for webhook in page.body["webhooks"].as_array().unwrap() {
            assert!(seen.insert(webhook["webhook_id"].to_string()));
        }
        match page.body["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 50);
}

#[tokio::test]
async fn a_webhook_of_another_owner_does_not_exist() {
    let door = Door::open().await;
    let webhook = id(&create(&door, json!({ "url": URL })).await);
    let delivery = message(&door, webhook, "push.done/1").await;
    for (method, path) in [
        (Method::GET, format!("/webhooks/{webhook}")),
        (Method::DELETE, format!("/webhooks/{webhook}")),
        (Method::POST, format!("/webhooks/{webhook}/secret")),
        (Method::POST, format!("/webhooks/{webhook}/enable")),
        (Method::POST, format!("/webhooks/{webhook}/test")),
        (Method::GET, format!("/webhooks/{webhook}/deliveries")),
        (Method::GET, format!("/deliveries/{delivery}")),
        (Method::POST, format!("/deliveries/{delivery}/resend")),
    ] {
        let refused = call(&door, OTHER, method.clone(), &path).await;
        assert_eq!(refused.problem(), (404, "not-found", ""), "{method} {path}");
        let nonsense = path.replace(&webhook.to_string(), "x").replace(&delivery.to_string(), "x");
        assert_eq!(call(&door, ACME, method, &nonsense).await.problem().0, 404, "{nonsense}");
    }
    assert_eq!(call(&door, OTHER, Method::GET, "/webhooks").await.body["webhooks"], json!([]));
    let all = call(&door, OPS, Method::GET, "/webhooks").await;
    assert_eq!(all.body["webhooks"][0]["webhook_id"], webhook.to_string(), "an operator sees all");
    assert_eq!(call(&door, OPS, Method::GET, &format!("/deliveries/{delivery}")).await.status, 200);

    // For a function of theirs, it is theirs.
    let function = door.ready_function("stats").await;
    let request = door.http.post(format!("{}/webhooks", door.url)).bearer_auth(OPS);
    let made = answer(request.json(&json!({ "url": URL, "function_id": function }))).await;
    assert_eq!((made.status, made.text("/owner")), (201, "acme"));
    let request = door.http.post(format!("{}/webhooks", door.url)).bearer_auth(OTHER);
    let refused = answer(request.json(&json!({ "url": URL, "function_id": function }))).await;
    assert_eq!(refused.problem().0, 404);
}

#[tokio::test]
async fn who_only_looks_sees_where_a_webhook_leads_and_no_key() {
    let door = Door::open().await;
    let webhook = id(&create(&door, json!({ "url": URL })).await);
    let path = format!("/webhooks/{webhook}");
    for (token, url) in [(VIEWER, "https://hooks.example.com/…"), (ACME, URL), (OPS, URL)] {
        assert_eq!(call(&door, token, Method::GET, &path).await.text("/url"), url);
        let list = call(&door, token, Method::GET, "/webhooks").await;
        assert_eq!(list.text("/webhooks/0/url"), url);
    }
}

#[tokio::test]
async fn deliveries_are_seen_with_their_tries_and_can_be_sent_again() {
    let door = Door::open().await;
    let webhook = id(&create(&door, json!({ "url": URL })).await);
    let first = message(&door, webhook, "push.done/1").await;
    let second = message(&door, webhook, "push.done/2").await;
    let claim = Claim { most: 1, per_owner: 1, per_webhook: 1, under_way: &[], lease: A_DAY };
    let claimed = deliveries::claim(&door.pool, claim).await.unwrap().remove(0);
    assert_eq!(claimed.id, first);
    let attempt = Attempt {
        attempt: claimed.attempt,
        began_at: chrono::Utc::now(),
        duration_ms: 12,
        status: Some(500),
        error: Some("the receiver answered 500".to_owned()),
    };
    let dead = Verdict::Dead { letter: true };
    assert!(deliveries::record(&door.pool, first, &attempt, &dead).await.unwrap());
    let failing = door.get(&format!("/webhooks/{webhook}")).await;
    assert!(!failing.text("/failing_since").is_empty() && failing.body["enabled"] == true);

    let path = format!("/webhooks/{webhook}/deliveries");
    let page = door.get(&format!("{path}?page_size=1")).await;
    assert_eq!(page.body["deliveries"][0]["delivery_id"], second.to_string(), "newest first");
    let rest = door.get(&format!("{path}?page_token={}", page.text("/next_page_token"))).await;
    assert_eq!(rest.body["deliveries"][0]["delivery_id"], first.to_string());
    assert_eq!(rest.body["next_page_token"], Value::Null);
    for (status, expected) in
        [("dead", vec![first]), ("pending", vec![second]), ("delivered", vec![])]
    {
        let some = door.get(&format!("{path}?status={status}")).await;
        let ids: Vec<&str> = some.body["deliveries"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|delivery| delivery["delivery_id"].as_str())
            .collect();
        assert_eq!(ids, expected.iter().map(Uuid::to_string).collect::<Vec<_>>(), "{status}");
    }
    assert_eq!(
        door.get(&format!("{path}?status=x")).await.problem(),
        (422, "invalid-field", "status")
    );

    let one = door.get(&format!("/deliveries/{first}")).await;
    assert_eq!((one.text("/status"), &one.body["last_status"]), ("dead", &json!(500)));
    assert_eq!(one.body["attempts"][0]["duration_ms"], 12);
    assert_eq!(one.text("/message/text"), "<b>\u{1b}");

    let again = door.post(&format!("/deliveries/{first}/resend"), json!({})).await;
    assert_eq!((again.status, again.text("/status")), (202, "pending"));
    assert_eq!(again.header("location"), format!("/deliveries/{first}"));
    let claim = Claim { most: 9, per_owner: 9, per_webhook: 9, ..claim };
    let due: Vec<Uuid> =
        deliveries::claim(&door.pool, claim).await.unwrap().iter().map(|due| due.id).collect();
    assert!(due.contains(&first), "it is due at once");
}

#[tokio::test]
async fn a_test_is_a_message_of_its_own_and_a_disabled_one_can_be_enabled() {
    let door = Door::open().await;
    let webhook = id(&create(&door, json!({ "url": URL })).await);
    let test = door.post(&format!("/webhooks/{webhook}/test"), json!({})).await;
    assert_eq!((test.status, test.text("/event_type")), (202, "webhook.test"));
    assert_eq!(test.text("/message/specversion"), "1.0");
    assert_eq!(test.text("/message/data/webhookId"), webhook.to_string());

    let mut conn = door.pool.acquire().await.unwrap();
    webhooks::disable(&mut conn, webhook, "the receiver answered 410 Gone").await.unwrap();
    drop(conn);
    let seen = door.get(&format!("/webhooks/{webhook}")).await;
    assert_eq!(seen.text("/disabled_reason"), "the receiver answered 410 Gone");
    let waiting = door.get(&format!("/webhooks/{webhook}/deliveries")).await;
    assert_eq!(waiting.text("/deliveries/0/status"), "dead");
    let enabled = door.post(&format!("/webhooks/{webhook}/enable"), json!({})).await;
    assert_eq!((enabled.status, &enabled.body["enabled"]), (200, &json!(true)));
    assert_eq!(enabled.body["disabled_reason"], Value::Null);
    assert_eq!(enabled.body["failing_since"], Value::Null);

    let gone = call(&door, ACME, Method::DELETE, &format!("/webhooks/{webhook}")).await;
    assert_eq!(gone.status, 204);
    assert_eq!(door.get(&format!("/webhooks/{webhook}")).await.status, 404);
    let delivery = test.text("/delivery_id");
    assert_eq!(door.get(&format!("/deliveries/{delivery}")).await.status, 404);
}
