//! Tasks: run, wait, result, logs, cancel.

use bytes::Bytes;
use mecapy_objects::Key;
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::v1::{TaskCancel, TaskDispatch, TaskDone, TaskStatus};
use mecapy_store::{TaskState, tasks};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::door::{Answer, Door, IMAGE, answer};

async fn run(door: &Door, function: i64, body: Value) -> Answer {
    door.post(&format!("/functions/{function}/tasks"), body).await
}

#[tokio::test]
async fn a_function_without_a_ready_version_runs_nothing() {
    let door = Door::open().await;
    let submitted = door.submit("stats").await;
    assert_eq!(
        run(&door, submitted.function(), json!({})).await.problem(),
        (409, "function-not-ready", "")
    );
    assert_eq!(run(&door, 999_999, json!({})).await.problem(), (404, "unknown-function", ""));
}

#[tokio::test]
async fn a_task_is_a_row_and_an_event_with_the_inputs_as_they_were_written() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let body = r#"{"inputs": {"b": 1.0, "a": 123456789012345678901234567890}, "timeout_ms": 5000, "deadline": "2999-01-01T00:00:00Z"}"#;
    let request = door.request(Method::POST, &format!("/functions/{function}/tasks"));
    let queued = answer(request.header(CONTENT_TYPE, "application/json").body(body)).await;
    let id = queued.task();
    assert_eq!((queued.status, queued.text("/status")), (202, "queued"));
    assert_eq!(queued.header("location"), format!("/tasks/{id}"));

    let row = tasks::get(&door.pool, id).await.unwrap().unwrap();
    assert_eq!((row.function_id, row.timeout_ms, row.image.as_str()), (function, 5000, IMAGE));
    let (event, _) = door.published::<TaskDispatch>("TASKS", 1).await.remove(0);
    assert_eq!(
        (event.task_id, event.function_id, event.timeout_ms),
        (id.to_string(), function, 5000)
    );
    assert_eq!(
        event.docker_image, IMAGE,
        "what is current now is run, whatever is published meanwhile"
    );
    assert!(event.deadline.is_some());
    let inputs = r#"{"b": 1.0, "a": 123456789012345678901234567890}"#;
    assert_eq!(event.inputs, Some(Inputs::InputsJson(inputs.into())));
}

#[tokio::test]
async fn a_task_without_a_body_has_null_as_its_inputs() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let queued = answer(door.request(Method::POST, &format!("/functions/{function}/tasks"))).await;
    assert_eq!(queued.status, 202);
    let (event, _) = door.published::<TaskDispatch>("TASKS", 1).await.remove(0);
    assert_eq!(event.inputs, Some(Inputs::InputsJson("null".into())));
}

#[tokio::test]
async fn large_inputs_are_in_the_object_store_first() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let inputs = json!("x".repeat(300 * 1024));
    let id = run(&door, function, json!({ "inputs": inputs })).await.task();
    let (event, _) = door.published::<TaskDispatch>("TASKS", 1).await.remove(0);
    let key = Key::task_inputs(id);
    assert_eq!(event.inputs, Some(Inputs::InputsS3Key(key.to_string())));
    let stored = door.objects.get(&key, 1 << 20).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&stored).unwrap(), inputs);
}

#[tokio::test]
async fn each_wrong_field_of_a_task_is_named() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    for (body, problem) in [
        (json!({ "timeout_ms": -1 }), (422, "invalid-field", "timeout_ms")),
        (json!({ "timeout_ms": 300_001 }), (422, "invalid-field", "timeout_ms")),
        (json!({ "deadline": "soon" }), (422, "invalid-field", "deadline")),
        (json!({ "deadline": "2020-01-01T00:00:00Z" }), (422, "deadline-exceeded", "deadline")),
        (json!({ "input": 1 }), (422, "invalid-field", "input")),
        (json!({ "inputs": "x".repeat(10 << 20) }), (413, "inputs-too-large", "inputs")),
    ] {
        assert_eq!(run(&door, function, body).await.problem(), problem);
    }
}

#[tokio::test]
async fn a_held_task_is_answered_with_its_result() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let path = format!("/functions/{function}/tasks");
    let request = door
        .request(Method::POST, &path)
        .header("Prefer", "wait=60")
        .json(&json!({ "inputs": [1, 2] }));
    let (answer, id) = tokio::join!(answer(request), async {
        let (event, _) = door.published::<TaskDispatch>("TASKS", 1).await.remove(0);
        let id = event.task_id.parse().unwrap();
        door.results.put(id, Bytes::from_static(b"{\"mean\": 1.50}")).await.unwrap();
        door.complete(id, TaskState::Succeeded, None).await;
        id
    });
    assert_eq!((answer.status, answer.task()), (200, id));
    assert_eq!(
        (answer.text("/status"), &answer.body["result"]),
        ("succeeded", &json!({ "mean": 1.5 }))
    );
    assert_eq!(answer.body["timings"]["run_ms"], 7);
    assert_eq!((answer.text("/cache"), &answer.body["exit_code"]), ("HIT", &json!(0)));
    let result = door.request(Method::GET, &format!("/tasks/{id}/result")).send().await.unwrap();
    assert_eq!(result.text().await.unwrap(), "{\"mean\": 1.50}", "as the function wrote it");
}

#[tokio::test]
async fn a_result_that_is_only_in_the_object_store_is_found_there() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let id = run(&door, function, json!({})).await.task();
    assert_eq!(door.get(&format!("/tasks/{id}/result")).await.problem(), (404, "not-found", ""));
    let key = Key::task_result(id, 1);
    door.objects.put(&key, Bytes::from(format!("\"{}\"", "x".repeat(2 << 20)))).await.unwrap();
    door.complete(id, TaskState::Succeeded, Some(key.to_string())).await;
    assert_eq!(
        door.get(&format!("/tasks/{id}")).await.body["result"],
        Value::Null,
        "too large to be part of it"
    );
    let result = door.get(&format!("/tasks/{id}/result")).await;
    assert_eq!((result.status, result.header("content-type")), (200, "application/json"));
    assert_eq!(result.body.as_str().map(str::len), Some(2 << 20));
}

#[tokio::test]
async fn a_failed_task_has_its_error_in_place_of_a_result() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let id = run(&door, function, json!({})).await.task();
    door.complete(id, TaskState::Failed, None).await;
    assert_eq!(
        door.get(&format!("/tasks/{id}/result")).await.problem(),
        (404, "function-failed", "")
    );
    let task = door.get(&format!("/tasks/{id}")).await;
    assert_eq!(
        (task.status, task.text("/status"), task.text("/error/code")),
        (200, "failed", "function-failed")
    );
}

#[tokio::test]
async fn what_a_function_wrote_is_read_by_stream_or_both() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let id = run(&door, function, json!({})).await.task();
    let path = format!("/tasks/{id}/logs");
    assert_eq!(door.get(&path).await.problem(), (404, "not-found", ""));
    door.complete(id, TaskState::Failed, None).await;
    let silent = door.get(&path).await;
    assert_eq!((silent.status, silent.body), (200, json!("")), "it wrote nothing");
    door.objects.put(&Key::task_stdout(id, 1), Bytes::from_static(b"out\n")).await.unwrap();
    door.objects.put(&Key::task_stderr(id, 1), Bytes::from_static(b"err\n")).await.unwrap();
    assert_eq!(door.get(&path).await.body, json!("out\nerr\n"));
    assert_eq!(door.get(&format!("{path}?stream=stderr")).await.body, json!("err\n"));
    assert_eq!(
        door.get(&format!("{path}?stream=x")).await.problem(),
        (422, "invalid-field", "stream")
    );
}

#[tokio::test]
async fn a_queued_task_is_cancelled_at_once() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let id = run(&door, function, json!({})).await.task();
    let waiter =
        door.request(Method::GET, &format!("/tasks/{id}/result")).header("Prefer", "wait=60");
    let cancel = format!("/tasks/{id}/cancel");
    let (waited, cancelled) = tokio::join!(answer(waiter), door.post(&cancel, json!({})));
    assert_eq!((cancelled.status, cancelled.text("/status")), (200, "cancelled"));
    assert_eq!(waited.problem(), (404, "task-cancelled", ""));
    let again = door.post(&cancel, json!({})).await;
    assert_eq!(
        (again.status, again.text("/status")),
        (200, "cancelled"),
        "asking again changes nothing"
    );
    door.published::<TaskCancel>("PIPELINE", 0).await;
    let (done, _) = door.published::<TaskDone>("PIPELINE", 1).await.remove(0);
    assert_eq!((done.task_id.as_str(), done.function_id), (id.to_string().as_str(), function));
    assert_eq!((done.attempt, done.status()), (0, TaskStatus::Cancelled));
    assert_eq!(done.failure.unwrap().code, "task-cancelled");
}

#[tokio::test]
async fn the_worker_of_a_running_task_is_told_to_end_it() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let id = run(&door, function, json!({})).await.task();
    tasks::claim(&door.pool, id, "worker").await.unwrap().unwrap();
    let asked = answer(door.request(Method::POST, &format!("/tasks/{id}/cancel"))).await;
    assert_eq!((asked.status, asked.text("/status")), (202, "running"));
    assert!(tasks::get(&door.pool, id).await.unwrap().unwrap().cancel_requested);
    let (event, _) = door.published::<TaskCancel>("PIPELINE", 1).await.remove(0);
    assert_eq!(event.task_id, id.to_string());
    // Of its end, its worker tells.
    door.published::<TaskDone>("PIPELINE", 0).await;
}

#[tokio::test]
async fn one_key_is_one_task() {
    let door = Door::open().await;
    let (one, other) = (door.ready_function("one").await, door.ready_function("other").await);
    let run = async |function: i64| {
        let request = door.request(Method::POST, &format!("/functions/{function}/tasks"));
        answer(request.header("Idempotency-Key", "k").json(&json!({ "inputs": 1 }))).await
    };
    let (first, second) = tokio::join!(run(one), run(one));
    assert_eq!(first.task(), second.task());
    assert_eq!(run(one).await.task(), first.task());
    assert_eq!(run(other).await.problem(), (422, "invalid-field", "Idempotency-Key"));
    door.published::<TaskDispatch>("TASKS", 1).await;
}
