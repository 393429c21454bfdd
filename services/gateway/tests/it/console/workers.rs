//! The page of workers: who is drained, and by whom.

use mecapy_bus::{DrainOrder, Drains, ParkedStatus, RegistryStatus, WorkerStatus, Workers};
use mecapy_testkit::eventually;

use super::browser::{Browser, Page};
use crate::door::{Door, OPS, PATIENCE, VIEWER};

fn status(name: &str) -> WorkerStatus {
    WorkerStatus { name: name.to_owned(), slots: 4, running: 1, ..WorkerStatus::default() }
}

/// The page, once all of this is on it. Who says nothing for some time is forgotten.
async fn until(door: &Door, browser: &Browser, status: &WorkerStatus, texts: &[&str]) -> Page {
    let workers = Workers::new(door.bus.clone());
    eventually(&format!("the page has all of {texts:?}"), PATIENCE, async || {
        workers.tell(status).await.unwrap();
        let page = browser.see("/console/workers").await;
        texts.iter().all(|text| page.has(text)).then_some(page)
    })
    .await
}

#[tokio::test]
async fn a_worker_is_drained_after_a_question_and_taken_back_at_once() {
    let door = Door::open().await;
    let (ops, viewer) =
        (Browser::logged_in(&door, OPS).await, Browser::logged_in(&door, VIEWER).await);
    let name = "a<b>:9100";
    let asks = "/console/workers/drain?name=a%3Cb%3E%3A9100";
    let page = until(&door, &ops, &status(name), &[">free<", "1 of 4", asks]).await;
    assert!(page.has("a&lt;b&gt;:9100") && !page.has("a<b>"), "{}", page.text);
    let page = until(&door, &viewer, &status(name), &[">free<"]).await;
    assert!(!page.has("Drain…"), "a viewer looks");
    assert_eq!(viewer.get(asks).await.status, 403);

    Workers::new(door.bus.clone()).tell(&status(name)).await.unwrap();
    let question = ops.see(asks).await;
    for text in
        ["takes no more tasks", "(1 now)", "No other worker takes tasks", "over its restarts"]
    {
        assert!(question.has(text), "{text} in {}", question.text);
    }
    assert_eq!(ops.get("/console/workers/drain?name=nobody").await.status, 404);
    Workers::new(door.bus.clone()).tell(&status(name)).await.unwrap();
    let done = ops.post("/console/workers/drain", &[("name", name)]).await;
    assert_eq!(done.header("location"), "/console/workers?notice=draining", "{}", done.text);
    let page = ops.see("/console/workers?notice=draining").await;
    assert!(page.has("It takes no more tasks, and finishes those that it has."));

    let drained = WorkerStatus { running: 0, is_draining: true, is_drained: true, ..status(name) };
    until(&door, &ops, &drained, &[">drained<", "<div class=\"quiet\">ops, ", "Take back"]).await;
    let done = ops.post("/console/workers/resume", &[("name", name)]).await;
    assert_eq!(done.header("location"), "/console/workers?notice=resumed", "{}", done.text);
    until(&door, &ops, &status(name), &[">free<", "Drain…"]).await;
    let audit = ops.see("/console/audit").await;
    assert!(audit.has("drain-worker") && audit.has("resume-worker"), "{}", audit.text);
}

#[tokio::test]
async fn a_worker_shows_what_it_has_and_how_it_finds_the_registries() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    let registry = |host: &str, breaker: &str| RegistryStatus {
        host: host.to_owned(),
        breaker: breaker.to_owned(),
    };
    let parked = |dependencies: &str, waiting, starting| ParkedStatus {
        dependencies: dependencies.to_owned(),
        waiting,
        starting,
    };
    let status = WorkerStatus {
        images: vec!["sha256:0123456789abcdef".into(), "sha256:fedcba9876543210".into()],
        image_bytes: 245_000_000,
        parked: vec![parked("numpy-of-one", 2, 1), parked("none-at-all", 3, 0)],
        registries: vec![registry("primary.test", "open"), registry("fallback.test", "closed")],
        ..status("one")
    };
    let shown = [
        "1 of 4",
        "5 for 2",
        "2, 245MB",
        "primary.test <span class=\"badge bad\">open<",
        "fallback.test <span class=\"badge good\">closed<",
        "<code>numpy-of-one</code></th><td class=\"number\">2</td><td class=\"number\">1</td>",
        "<code>0123456789ab</code> <code>fedcba987654</code>",
    ];
    until(&door, &ops, &status, &shown).await;
}

#[tokio::test]
async fn an_order_that_cannot_be_read_is_lifted_by_the_same_button() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    let bucket = door.jetstream.get_key_value("drains").await.unwrap();
    bucket.put("one", "{\"worker\": 7}".into()).await.unwrap();
    // The worker obeys it, whoever gave it.
    let drained = WorkerStatus { running: 0, is_draining: true, is_drained: true, ..status("one") };
    until(&door, &ops, &drained, &[">drained<", "Take back"]).await;
    Workers::new(door.bus.clone()).tell(&drained).await.unwrap();
    let done = ops.post("/console/workers/resume", &[("name", "one")]).await;
    assert_eq!(done.header("location"), "/console/workers?notice=resumed", "{}", done.text);
    assert!(!Drains::new(door.bus.clone()).is_given("one").await.unwrap());
}

#[tokio::test]
async fn who_is_away_and_drained_is_shown_to_be_taken_back() {
    let door = Door::open().await;
    let order = DrainOrder { worker: "gone".into(), by: "ops".into(), ..DrainOrder::default() };
    Drains::new(door.bus.clone()).give(&order).await.unwrap();
    let ops = Browser::logged_in(&door, OPS).await;
    let texts = [">away<", "Nobody of this name lives"];
    let page = ops.see_all("/console/workers", &texts).await;
    assert!(page.has("Take back") && !page.has("No worker has said anything"), "{}", page.text);
    assert_eq!(ops.post("/console/workers/resume", &[("name", "gone")]).await.status, 303);
    assert!(ops.see("/console/workers").await.has("No worker has said anything lately."));
}
