use serde_json::{Value, json};

use crate::fake_gateway::{FakeGateway, Reply, problem};
use crate::program::mecapy;

fn worker(state: &str, drained: bool) -> Value {
    let drain = drained.then(|| json!({ "by": "ops", "at": "2025-10-05T02:00:00Z" }));
    json!({ "name": "host 1:9100", "state": state, "running": 1, "slots": 2, "drain": drain, "of_tomorrow": 1 })
}

fn listed(worker: &Value) -> Reply {
    let other =
        json!({ "name": "other", "state": "drained", "running": 0, "slots": 2, "drain": null });
    Reply::Json(200, json!({ "workers": [other, worker] }).to_string())
}

#[tokio::test]
async fn a_drain_is_waited_for_until_the_worker_has_nothing_in_hand() {
    let gateway = FakeGateway::start(|request, before| match request.line.as_str() {
        "POST /workers/host%201:9100/drain" => {
            Reply::Json(202, worker("draining", true).to_string())
        }
        // It restarts meanwhile.
        "GET /workers" if before == 2 => problem(503, "unavailable", "starting", None),
        "GET /workers" if before < 4 => listed(&worker("draining", true)),
        "GET /workers" => listed(&worker("drained", true)),
        _ => problem(404, "not-found", "there is no such thing", None),
    })
    .await;
    let arguments = ["workers", "drain", "host 1:9100", "--wait", "--json", "--url", &gateway.url];
    let ended = mecapy(&arguments).await.expect(0);
    assert_eq!(ended.json(), worker("drained", true), "{ended:#?}");
    assert!(ended.stderr.contains("draining, 1 in hand"), "{ended:#?}");
    assert_eq!(gateway.lines().iter().filter(|line| line.starts_with("POST")).count(), 1);
}

#[tokio::test]
async fn without_waiting_a_person_is_told_how_to_take_it_back() {
    let gateway = FakeGateway::start(|request, _| match request.line.as_str() {
        "POST /workers/a/drain" => Reply::Json(202, worker("draining", true).to_string()),
        "POST /workers/a/resume" => Reply::Json(200, worker("free", false).to_string()),
        _ => problem(404, "not-found", "there is no such worker", None),
    })
    .await;
    let ended = mecapy(&["workers", "drain", "a", "--url", &gateway.url]).await.expect(0);
    assert!(ended.stdout.contains("draining") && ended.stdout.contains("ops"), "{ended:#?}");
    assert!(ended.stderr.contains("mecapy workers resume a"), "{ended:#?}");
    let ended = mecapy(&["workers", "resume", "a", "--url", &gateway.url]).await.expect(0);
    assert!(ended.stdout.contains("free"), "{ended:#?}");
    let unknown = mecapy(&["workers", "drain", "nobody", "--url", &gateway.url]).await;
    assert!(unknown.expect(4).stderr.contains("no such worker"));
}

#[tokio::test]
async fn a_drain_that_somebody_lifts_meanwhile_is_no_success() {
    let gateway = FakeGateway::start(|request, before| match (request.line.as_str(), before) {
        ("POST /workers/host%201:9100/drain", _) => {
            Reply::Json(202, worker("draining", true).to_string())
        }
        ("GET /workers", _) => listed(&worker("free", false)),
        _ => problem(404, "not-found", "there is no such thing", None),
    })
    .await;
    let arguments = ["workers", "drain", "host 1:9100", "--wait", "--url", &gateway.url];
    let ended = mecapy(&arguments).await.expect(1);
    assert!(ended.stderr.contains("somebody has taken host 1:9100 back"), "{ended:#?}");
}
