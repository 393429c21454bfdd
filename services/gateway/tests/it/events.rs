//! A build as it goes, as server-sent events.

use futures::StreamExt as _;
use mecapy_bus::Position;
use mecapy_proto::TaskId;
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

    // As the worker does when the function has ended, in its second attempt.
    let begin = Position { attempt: 2, bytes: 0 };
    door.live.task_log(id).send_last_at(begin, String::new()).await;
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
        follower.answer("one\ntwo\n".to_owned(), Position { attempt: 1, bytes: 8 }, false).await;
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

/// A task that a worker has. Its end is that of its second attempt.
async fn running_task(door: &Door) -> TaskId {
    let function = door.ready_function("stats").await;
    let path = format!("/functions/{function}/tasks");
    let id = door.post(&path, json!({ "inputs": {} })).await.task();
    tasks::claim(&door.pool, id, "worker").await.unwrap().unwrap();
    id
}

async fn watch_task(door: &Door, id: TaskId, last: &str) -> Events {
    let request = door.request(Method::GET, &format!("/tasks/{id}/events"));
    Events::of(request.header("Last-Event-ID", last).send().await.unwrap())
}

fn log(text: &str) -> (String, serde_json::Value) {
    ("log".into(), json!({ "text": text }))
}

#[tokio::test]
async fn a_tasks_last_words_come_before_its_end_however_late_they_are() {
    let door = Door::open().await;
    let id = running_task(&door).await;
    let mut followers = Box::pin(door.live.late_followers().await.unwrap());
    door.bus.flush().await;
    let mut events = watch_task(&door, id, "").await;
    assert_eq!(events.next().await.unwrap().0, "status");
    let follower = tokio::time::timeout(PATIENCE, followers.next()).await.unwrap().unwrap();
    door.complete(id, TaskState::Failed, None).await;
    // Longer than until the gateway looks at the task again.
    let soon = std::time::Duration::from_secs(3);
    assert!(tokio::time::timeout(soon, events.next()).await.is_err(), "an end without last words");
    // The worker was slow to answer, and its last words come after that.
    follower.answer("one\n".to_owned(), Position { attempt: 2, bytes: 4 }, false).await;
    let lines = door.live.task_log(id);
    lines.send_last_at(Position { attempt: 2, bytes: 4 }, "two\n".to_owned()).await;
    assert_eq!(events.next().await.unwrap(), log("one\n"));
    assert_eq!(events.next().await.unwrap(), log("two\n"));
    assert_eq!(events.next().await.unwrap().0, "status");
    assert_eq!(events.next().await.unwrap().0, "ended");

    // Who was here before and comes again when all is over is told the rest.
    let mut answer = async || {
        let follower = tokio::time::timeout(PATIENCE, followers.next()).await.unwrap().unwrap();
        follower.answer("one\ntwo\n".to_owned(), Position { attempt: 2, bytes: 8 }, true).await;
    };
    let (mut events, ()) = tokio::join!(watch_task(&door, id, "2-4"), answer());
    assert_eq!(events.next().await.unwrap(), log("two\n"));
    assert_eq!(events.next().await.unwrap().0, "status");
    assert_eq!(events.next().await.unwrap().0, "ended");
}

#[tokio::test]
async fn where_a_tasks_last_words_do_not_come_its_watchers_are_told_so() {
    let door = Door::with_answers_within(std::time::Duration::from_millis(50)).await;
    let id = running_task(&door).await;
    let mut events = watch_task(&door, id, "").await;
    assert_eq!(events.next().await.unwrap().0, "status");
    door.live.task_log(id).send_at(Position { attempt: 2, bytes: 0 }, "one\n".into()).await;
    assert_eq!(events.next().await.unwrap(), log("one\n"));
    // Its worker dies.
    door.complete(id, TaskState::Lost, None).await;
    let note = "\n[... the end may be missing here; the log has it ...]\n";
    assert_eq!(events.next().await.unwrap(), log(note));
    assert_eq!(events.next().await.unwrap().0, "status");
    assert_eq!(events.next().await.unwrap().0, "ended");
}
