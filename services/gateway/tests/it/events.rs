//! A build as it goes, as server-sent events.

use futures::StreamExt as _;
use mecapy_bus::Position;
use mecapy_store::{TaskState, builds, tasks};
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

#[tokio::test]
async fn who_watches_a_task_sees_what_its_function_writes_and_its_end() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let path = format!("/functions/{function}/tasks");
    let id = door.post(&path, json!({ "inputs": {} })).await.task();
    let path = format!("/tasks/{id}/events");
    let mut events = Events::of(door.request(Method::GET, &path).send().await.unwrap());
    assert_eq!(events.next().await.unwrap(), ("status".into(), json!({ "status": "queued" })));

    tasks::claim(&door.pool, id, "worker").await.unwrap().unwrap();
    door.live.task_log(id).send("one\ntwo".into()).await;
    let mut seen = vec![events.next().await.unwrap(), events.next().await.unwrap()];
    seen.sort_by_key(|(name, _)| name.clone());
    let expected = [
        ("log".to_owned(), json!({ "text": "one\ntwo" })),
        ("status".to_owned(), json!({ "status": "running" })),
    ];
    assert_eq!(seen, expected);

    door.complete(id, TaskState::Failed, None).await;
    let status = events.next().await.unwrap();
    assert_eq!(status, ("status".into(), json!({ "status": "failed" })));
    let (name, task) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &task), ("ended", &door.get(&format!("/tasks/{id}")).await.body));
    assert_eq!(events.next().await, None);

    // Who comes late gets the state and the end at once.
    let mut events = Events::of(door.request(Method::GET, &path).send().await.unwrap());
    assert_eq!(events.next().await.unwrap().0, "status");
    assert_eq!(events.next().await.unwrap().0, "ended");
    let other = door.request(Method::GET, "/tasks/018f4e3e-0000-7000-8000-000000000000/events");
    assert_eq!(other.send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn who_comes_late_sees_what_a_function_has_written_and_who_comes_again_what_is_new() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let id =
        door.post(&format!("/functions/{function}/tasks"), json!({ "inputs": {} })).await.task();
    tasks::claim(&door.pool, id, "worker").await.unwrap().unwrap();
    let mut followers = Box::pin(door.live.late_followers().await.unwrap());
    door.bus.flush().await;
    // As the worker that has it: this is what was written.
    let mut answer = async || {
        let follower = tokio::time::timeout(PATIENCE, followers.next()).await.unwrap().unwrap();
        assert_eq!(follower.task, id);
        follower.answer("one\ntwo\n".to_owned(), Position { attempt: 1, bytes: 8 }).await;
    };
    let path = format!("/tasks/{id}/events");
    for (last, expected) in
        [(None, "one\ntwo\n"), (Some("1-4"), "two\n"), (Some("nonsense"), "one\ntwo\n")]
    {
        let mut request = door.request(Method::GET, &path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let (events, ()) = tokio::join!(request.send(), answer());
        let mut events = Events::of(events.unwrap());
        assert_eq!(events.next().await.unwrap().0, "status");
        assert_eq!(events.next().await.unwrap(), ("log".into(), json!({ "text": expected })));
    }
}
