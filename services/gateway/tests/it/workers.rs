//! Workers, and the orders that one takes no more tasks.

use mecapy_bus::{Drains, WorkerStatus, Workers};
use mecapy_testkit::eventually;
use reqwest::Method;
use serde_json::Value;

use crate::door::{ACME, Answer, Door, OPS, PATIENCE, VIEWER, answer};

const NAME: &str = "host b:9100";
/// As an address has it.
const IN_PATH: &str = "host%20b:9100";

async fn call(door: &Door, token: &str, method: Method, path: &str) -> Answer {
    answer(door.http.request(method, format!("{}{path}", door.url)).bearer_auth(token)).await
}

fn status() -> WorkerStatus {
    WorkerStatus { name: NAME.to_owned(), slots: 4, running: 1, ..WorkerStatus::default() }
}

/// Says it until it is heard: who says nothing for some time is forgotten.
async fn until_listed(door: &Door, status: &WorkerStatus, state: &str) -> Value {
    let workers = Workers::new(door.bus.clone());
    eventually(&format!("a worker is listed as {state}"), PATIENCE, async || {
        workers.tell(status).await.unwrap();
        let list = call(door, VIEWER, Method::GET, "/workers").await;
        let worker = list.body["workers"][0].clone();
        (worker["state"] == state).then_some(worker)
    })
    .await
}

async fn noted(door: &Door) -> Vec<(String, String, String, String)> {
    sqlx::query_as("select owner, action, target, outcome from audit order by id")
        .fetch_all(&door.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn an_operator_drains_a_worker_and_takes_it_back_and_both_are_on_record() {
    let door = Door::open().await;
    let worker = until_listed(&door, &status(), "free").await;
    assert_eq!((worker["name"].as_str(), worker["running"].as_u64()), (Some(NAME), Some(1)));
    assert_eq!(worker["drain"], Value::Null);

    let (drain, resume) =
        (format!("/workers/{IN_PATH}/drain"), format!("/workers/{IN_PATH}/resume"));
    let (drains, workers) = (Drains::new(door.bus.clone()), Workers::new(door.bus.clone()));
    workers.tell(&status()).await.unwrap();
    let asked = call(&door, OPS, Method::POST, &drain).await;
    assert_eq!((asked.status, asked.text("/state")), (202, "draining"), "{}", asked.body);
    assert_eq!(asked.text("/drain/by"), "ops");
    assert!(drains.is_given(NAME).await.unwrap());

    // The worker has heard of it, and has nothing any more.
    let drained = WorkerStatus { running: 0, is_draining: true, is_drained: true, ..status() };
    let worker = until_listed(&door, &drained, "drained").await;
    assert_eq!(worker["drain"]["by"], "ops");
    let again = call(&door, OPS, Method::POST, &drain).await;
    assert_eq!((again.status, again.text("/state")), (200, "drained"), "{}", again.body);

    // It is away, and what was ordered of it is there to be lifted.
    workers.forget(NAME).await.unwrap();
    let list = call(&door, OPS, Method::GET, "/workers").await;
    assert_eq!(list.body["workers"][0]["state"], "away", "{}", list.body);
    let resumed = call(&door, OPS, Method::POST, &resume).await;
    assert_eq!((resumed.status, &resumed.body["name"]), (200, &Value::from(NAME)));
    assert!(!drains.is_given(NAME).await.unwrap());
    let gone = call(&door, OPS, Method::POST, &resume).await;
    assert_eq!(gone.problem(), (404, "not-found", ""));

    let expected = [
        ("drain-worker", "done"),
        ("drain-worker", "it was so already"),
        ("resume-worker", "done"),
    ];
    let expected = expected.map(|(action, outcome)| {
        ("ops".to_owned(), action.to_owned(), NAME.to_owned(), outcome.to_owned())
    });
    assert_eq!(noted(&door).await, expected);
}

#[tokio::test]
async fn workers_are_seen_by_those_who_see_all_and_drained_by_operators() {
    let door = Door::open().await;
    until_listed(&door, &status(), "free").await;
    assert_eq!(call(&door, ACME, Method::GET, "/workers").await.problem(), (403, "forbidden", ""));
    for token in [ACME, VIEWER] {
        for order in ["drain", "resume"] {
            let path = format!("/workers/{IN_PATH}/{order}");
            let refused = call(&door, token, Method::POST, &path).await;
            assert_eq!(refused.problem(), (403, "forbidden", ""), "{token} {order}");
        }
    }
    let unknown = call(&door, OPS, Method::POST, "/workers/nobody/drain").await;
    assert_eq!(unknown.problem(), (404, "not-found", ""));
    assert!(Drains::new(door.bus.clone()).list().await.unwrap().is_empty());
    assert_eq!(noted(&door).await, []);
}
