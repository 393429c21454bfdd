use crate::fake_gateway::{BUILD, FakeGateway, Reply, TASK, problem};
use crate::program::mecapy;

async fn gateway() -> FakeGateway {
    FakeGateway::start(|request, _| {
        let waterfall = |kind: &str, id: &str| {
            Reply::Json(
                200,
                format!(
                    r#"{{"kind":"{kind}","id":"{id}","status":"running","trace_id":null,"started_at":"2025-10-04T02:00:00Z",
                    "ended_at":null,"duration_ms":20.125,"spans":[{{"name":"queued","service":"","depth":0,"offset_ms":0.0,
                    "duration_ms":2.0,"status":"done","attempt":1,"trace_id":null,"worker":null}},{{"name":"ran",
                    "service":"worker","depth":0,"offset_ms":2.0,"duration_ms":18.125,"status":"running","attempt":1,
                    "trace_id":null,"worker":"worker-1"}}]}}"#
                ),
            )
        };
        match request.line.as_str() {
            line if line == format!("GET /builds/{BUILD}/trace") => waterfall("build", BUILD),
            line if line == format!("GET /tasks/{TASK}/trace") => waterfall("task", TASK),
            _ => problem(404, "not-found", "there is no such thing", None),
        }
    })
    .await
}

#[tokio::test]
async fn a_waterfall_is_shown_of_a_build_and_of_a_task() {
    let gateway = gateway().await;
    let shown = mecapy(&["trace", TASK, "--url", &gateway.url]).await.expect(0).stdout;
    assert!(shown.starts_with(&format!("task {TASK}: running, 20 ms so far\n")), "{shown}");
    let ran = shown.lines().find(|line| line.starts_with("ran ")).unwrap();
    assert!(
        ran.contains("worker-1") && ran.contains("+2.0 ms") && ran.ends_with("running"),
        "{shown}"
    );
    assert!(ran.matches('█').count() > 20, "{shown}");
    assert_eq!(
        gateway.lines(),
        [format!("GET /builds/{TASK}/trace"), format!("GET /tasks/{TASK}/trace")]
    );

    let shown = mecapy(&["trace", BUILD, "--json", "--url", &gateway.url]).await.expect(0);
    assert_eq!(shown.json()["duration_ms"], 20.125);
    assert!(shown.stdout.contains("\"offset_ms\": 0.0"), "{}", shown.stdout);
}

#[tokio::test]
async fn what_is_neither_is_not_found() {
    let gateway = gateway().await;
    let unknown = "018f4e3e-0000-7000-8000-0000000000ff";
    mecapy(&["trace", unknown, "--url", &gateway.url]).await.expect(4);
    mecapy(&["trace", "456", "--url", &gateway.url]).await.expect(2);
}
