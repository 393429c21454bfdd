//! Webhooks and what was delivered to them.

use mecapy_store::deliveries::{self, NewDelivery};
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

use super::browser::Browser;
use crate::door::{ACME, Door, OTHER, VIEWER};

/// A message to a webhook of acme's.
pub async fn delivery(door: &Door, url: &str) -> Uuid {
    let made = door.post("/webhooks", json!({ "url": url })).await;
    let webhook: Uuid =
        made.text("/webhook_id").parse().unwrap_or_else(|_| panic!("{}", made.body));
    let new = NewDelivery {
        event_id: "push.done/1".into(),
        event_type: "push.done".into(),
        body: json!({ "data": "<script>alert(1)</script>" }).to_string(),
        lasts: Duration::from_secs(60),
    };
    let mut conn = door.pool.acquire().await.unwrap();
    deliveries::insert(&mut conn, &[webhook], &new).await.unwrap()[0]
}

#[tokio::test]
async fn an_owner_sees_what_was_sent_and_no_secret() {
    let door = Door::open().await;
    let id = delivery(&door, "https://hooks.example.com/a?b=%3Cscript%3E").await;
    sqlx::query("update webhook_deliveries set error = '<b>refused</b>', status = 500, state = 'dead', attempt = 3")
        .execute(&door.pool)
        .await
        .unwrap();
    let acme = Browser::logged_in(&door, ACME).await;
    let list = acme.see("/console/webhooks").await;
    assert!(
        list.has("https://hooks.example.com/a?b=%3Cscript%3E") && list.has(">enabled<"),
        "{}",
        list.text
    );
    let one = list.links("/console/webhooks/").remove(0);
    let page = acme.see(&one).await;
    assert!(page.has("500 &lt;b&gt;refused&lt;/b&gt;") && page.has(">dead<"), "{}", page.text);
    assert!(acme.see(&format!("{one}?status=delivered")).await.has("Nothing of that kind"));
    let sent = acme.see(&format!("/console/deliveries/{id}")).await;
    assert!(sent.has("&lt;script&gt;alert(1)") && !sent.has("<script>alert"), "{}", sent.text);
    assert!(sent.has("Send it again"));
    for page in [&list, &page, &sent] {
        assert!(!page.has("whsec_"), "{}", page.text);
    }
    let viewer = Browser::logged_in(&door, VIEWER).await;
    for path in ["/console/webhooks", &one, &format!("/console/deliveries/{id}")] {
        let page = viewer.see(path).await;
        assert!(!page.has("b=%3Cscript%3E") && !page.has("whsec_"), "{path}: {}", page.text);
    }
    assert!(viewer.see(&one).await.has("https://hooks.example.com/…"));
    let other = Browser::logged_in(&door, OTHER).await;
    assert!(other.see("/console/webhooks").await.has("There are none."));
    assert_eq!(other.get(&one).await.status, 404);
    assert_eq!(other.get(&format!("/console/deliveries/{id}")).await.status, 404);
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_is_seen_and_told_again_by_a_button() {
    let door = Door::open().await;
    delivery(&door, "https://hooks.example.com/").await;
    let change = async |to: &str| {
        let change = format!("update webhooks set {to}");
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(&door.pool).await.unwrap();
    };
    let acme = Browser::logged_in(&door, ACME).await;
    let one = acme.see("/console/webhooks").await.links("/console/webhooks/").remove(0);
    change("failing_since = '2026-01-02 03:04:05Z'").await;
    for path in ["/console/webhooks", &one] {
        let page = acme.see(path).await;
        assert!(page.has("nothing was delivered since <time"), "{}", page.text);
        assert!(page.has("2026-01-02 03:04:05 UTC") && !page.has("Have it told again"));
    }
    change("enabled = false, disabled_reason = 'no message was <b>delivered</b>'").await;
    let page = acme.see(&one).await;
    assert!(
        page.has(">disabled<") && page.has("no message was &lt;b&gt;delivered"),
        "{}",
        page.text
    );
    assert!(page.has("Have it told again"));
    let viewer = Browser::logged_in(&door, VIEWER).await;
    assert!(!viewer.see(&one).await.has("Have it told again"));
    assert_eq!(acme.post(&format!("{one}/enable"), &[]).await.status, 303);
    let page = acme.see(&one).await;
    assert!(page.has(">enabled<") && !page.has("nothing was delivered"), "{}", page.text);
}
