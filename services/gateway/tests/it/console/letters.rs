//! Dead letters: seen, sent again, dropped, and all of it on record.

use mecapy_proto::v1::BuildRequested;
use mecapy_proto::{BuildId, Event as _};
use mecapy_store::outbox::Message;

use super::browser::{Browser, Page};
use crate::door::{Door, OPS};

/// As the bus keeps one.
async fn bury(door: &Door, subject: &str, reason: &str, body: Vec<u8>) -> u64 {
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in [
        ("mecapy-subject", subject),
        ("mecapy-reason", reason),
        ("mecapy-deliveries", "20"),
        ("mecapy-service", "builder"),
        ("mecapy-consumer", "builder"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ] {
        headers.insert(name, value);
    }
    let sent = door.jetstream.publish_with_headers(format!("dlq.{subject}"), headers, body.into());
    sent.await.unwrap().await.unwrap().sequence
}

fn request() -> (BuildId, Vec<u8>) {
    let id = BuildId::new();
    let event = BuildRequested { build_id: id.to_string(), function_id: 7, ..Default::default() };
    (id, Message::of(&event).payload)
}

#[tokio::test]
async fn a_dead_letter_is_read_replayed_and_noted() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    assert!(ops.see("/console/dead-letters").await.has("There are none."));
    let after_all = format!("/console/dead-letters?page_token={}", u64::MAX);
    assert!(ops.see(&after_all).await.has("There are none."));
    let (build, body) = request();
    let id = bury(&door, BuildRequested::SUBJECT, "<b>why</b> it failed", body).await;
    let list = ops.see("/console/dead-letters").await;
    assert!(
        list.has("&lt;b&gt;why&lt;/b&gt; it failed") && list.has("build.requested"),
        "{}",
        list.text
    );
    let page = ops.see(&format!("/console/dead-letters/{id}")).await;
    assert!(page.has(&build.to_string()), "the body is read: {}", page.text);
    assert!(page.has("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(page.links("/console/builds/"), [format!("/console/builds/{build}")]);

    let done = ops.post("/console/dead-letters/replay", &[("id", &id.to_string())]).await;
    assert_eq!(done.header("location"), "/console/dead-letters?notice=replayed", "{}", done.text);
    assert!(ops.see(done.header("location")).await.has("There are none."));
    let sent = door.published::<BuildRequested>("PIPELINE", 1).await;
    assert_eq!(sent[0].0.build_id, build.to_string());
    let audit: Vec<(String, String, String)> = sqlx::query_as(
        "select action, target, outcome from audit where action not like 'log-%' order by id",
    )
    .fetch_all(&door.pool)
    .await
    .unwrap();
    assert_eq!(audit, [("replay".to_owned(), id.to_string(), "done".to_owned())]);
    assert_eq!(ops.get(&format!("/console/dead-letters/{id}")).await.status, 404);
}

#[tokio::test]
async fn they_are_paged_by_number_the_oldest_first() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    for _ in 0..51 {
        bury(&door, BuildRequested::SUBJECT, "why", request().1).await;
    }
    let numbers = |page: &Page| page.links("/console/dead-letters/");
    let first = ops.see("/console/dead-letters").await;
    let next = first.links("/console/dead-letters?page_token=").pop().unwrap();
    let last = ops.see(&next).await;
    let all = [numbers(&first), numbers(&last)].concat();
    let expected: Vec<String> =
        (1..=51).map(|number| format!("/console/dead-letters/{number}")).collect();
    assert_eq!((numbers(&first).len(), all), (50, expected));
    assert!(!last.has("Next page") && last.has("First page"), "{}", last.text);
}

#[tokio::test]
async fn many_are_named_before_they_are_dropped() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    let mut ids = Vec::new();
    for reason in ["apple", "pear", "plum"] {
        ids.push(bury(&door, BuildRequested::SUBJECT, reason, request().1).await.to_string());
    }
    let asked = format!("/console/dead-letters/confirm?id={}&id={}&action=drop", ids[0], ids[2]);
    let page = ops.see(&asked).await;
    assert!(page.has("apple") && page.has("plum") && !page.has("pear"), "{}", page.text);
    assert!(page.has("dropped for good") && page.has("action=\"/console/dead-letters/drop\""));
    let fields = [("id", ids[0].as_str()), ("id", ids[2].as_str())];
    let done = ops.post("/console/dead-letters/drop", &fields).await;
    assert_eq!(done.header("location"), "/console/dead-letters?notice=dropped", "{}", done.text);
    // Once more: they are gone already.
    ops.post("/console/dead-letters/drop", &fields[..1]).await;
    let list = ops.see("/console/dead-letters").await;
    assert!(list.has("pear") && !list.has("apple") && !list.has("plum"), "{}", list.text);
    assert!(door.published::<BuildRequested>("PIPELINE", 0).await.is_empty());
    let outcomes: Vec<String> =
        sqlx::query_scalar("select outcome from audit where action = 'drop' order by id")
            .fetch_all(&door.pool)
            .await
            .unwrap();
    assert_eq!(outcomes, ["done", "done", "it was gone already"]);
    let none = ops.see("/console/dead-letters/confirm?action=replay").await;
    assert!(none.has("None is chosen"));
    assert_eq!(ops.get("/console/dead-letters/confirm?id=x").await.status, 404);
}
