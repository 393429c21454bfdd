//! A build as it goes, as server-sent events.

use mecapy_store::builds;
use reqwest::Method;
use serde_json::json;

use crate::door::{Door, PATIENCE};
use crate::sse::Events;

async fn watch(door: &Door, build: mecapy_proto::BuildId) -> Events {
    Events::of(door.request(Method::GET, &format!("/builds/{build}/events")).send().await.unwrap())
}

#[tokio::test]
async fn a_watcher_sees_states_and_lines_up_to_the_end() {
    let door = Door::open().await;
    let build = door.submit("stats").await.build();
    let mut events = watch(&door, build).await;
    assert_eq!(events.next().await.unwrap(), ("status".into(), json!({ "status": "queued" })));

    builds::start(&door.pool, build).await.unwrap();
    door.live.build_log(build).send("Collecting numpy\r\n\u{1b}[32mdone\n".into()).await;
    let mut seen = vec![events.next().await.unwrap(), events.next().await.unwrap()];
    seen.sort_by_key(|(name, _)| name.clone());
    assert_eq!(
        seen,
        [
            ("log".into(), json!({ "text": "Collecting numpy\r\n\u{1b}[32mdone\n" })),
            ("status".into(), json!({ "status": "building" })),
        ]
    );

    door.make_ready(build).await;
    let mut last = events.next().await.unwrap();
    while last.0 == "status" {
        last = events.next().await.unwrap();
    }
    assert_eq!((last.0.as_str(), &last.1["status"]), ("ended", &json!("ready")));
    assert_eq!(last.1, door.get(&format!("/builds/{build}")).await.body);
    assert_eq!(events.next().await, None, "the stream ends with the build");
}

#[tokio::test]
async fn who_comes_late_gets_the_state_and_the_end() {
    let door = Door::open().await;
    let build = door.submit("stats").await.build();
    door.fail(build).await;
    let mut events = watch(&door, build).await;
    assert_eq!(events.next().await.unwrap(), ("status".into(), json!({ "status": "failed" })));
    let (name, function) = events.next().await.unwrap();
    assert_eq!(
        (name.as_str(), &function["error"]["code"]),
        ("ended", &json!("requirement-not-found"))
    );
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn shutdown_ends_the_stream() {
    let mut door = Door::open().await;
    let build = door.submit("stats").await.build();
    let mut events = watch(&door, build).await;
    events.next().await.unwrap();
    door.shutdown.cancel();
    assert_eq!(events.next().await, None);
    tokio::time::timeout(PATIENCE, &mut door.serving).await.unwrap().unwrap();
}
