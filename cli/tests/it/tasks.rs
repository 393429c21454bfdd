use crate::fake_gateway::{Chunk, FakeGateway, Reply, TASK, problem};
use crate::program::{Running, mecapy, mecapy_with_input};

fn task(rest: &str) -> Reply {
    Reply::Json(200, format!(r#"{{"task_id":"{TASK}","function_id":456,{rest}}}"#))
}

/// Queued at first, then as `end` says.
async fn gateway_with_task(end: &'static str) -> FakeGateway {
    FakeGateway::start(move |request, before| match request.line.as_str() {
        "POST /functions/456/tasks" => task(r#""status":"queued""#),
        line if line == format!("GET /tasks/{TASK}") && before == 1 => {
            task(r#""status":"running""#)
        }
        line if line == format!("GET /tasks/{TASK}") => task(end),
        line if line == format!("GET /tasks/{TASK}/result") => {
            Reply::Json(200, r#"{"large": 1.50}"#.to_owned())
        }
        line if line == format!("GET /tasks/{TASK}/logs?stream=stdout") => {
            Reply::Text("out\u{1b}[0m\n")
        }
        line if line == format!("GET /tasks/{TASK}/logs?stream=stderr") => Reply::Text("err\n"),
        line if line == format!("POST /tasks/{TASK}/cancel") => task(r#""status":"cancelled""#),
        _ => problem(404, "not-found", "there is no such task", None),
    })
    .await
}

#[tokio::test]
async fn a_result_is_printed_as_the_function_wrote_it() {
    let gateway = gateway_with_task(
        r#""status":"succeeded","cache":"HIT","result":{"z":12345678901234567890123,"a":1}"#,
    )
    .await;
    let inputs = r#"{"values": [1, 2.50, 12345678901234567890123]}"#;
    let ended = mecapy(&[
        "tasks",
        "run",
        "456",
        "--inputs",
        inputs,
        "--timeout",
        "1m30s",
        "--url",
        &gateway.url,
    ])
    .await
    .expect(0);
    assert_eq!(ended.stdout, "{\n  \"z\": 12345678901234567890123,\n  \"a\": 1\n}\n");
    let requests = gateway.requests();
    assert_eq!(requests[0].body, format!("{{\"inputs\":{inputs},\"timeout_ms\":90000}}"));
    assert!(requests[1].header("prefer").is_some_and(|prefer| prefer.starts_with("wait=")));
}

#[tokio::test]
async fn a_large_result_is_fetched() {
    let gateway = gateway_with_task(r#""status":"succeeded""#).await;
    let ended = mecapy_with_input(
        &["tasks", "run", "456", "--inputs-file", "-", "--url", &gateway.url],
        "[1]",
    )
    .await
    .expect(0);
    assert_eq!(ended.stdout, "{\n  \"large\": 1.50\n}\n");
    assert_eq!(gateway.requests()[0].body, r#"{"inputs":[1]}"#);
}

#[tokio::test]
async fn a_task_that_fails_exits_1_and_shows_why() {
    let gateway = gateway_with_task(
        r#""status":"failed","exit_code":1,"error":{"code":"function-failed","message":"it ended with 1","log_tail":["ValueError"]}"#,
    )
    .await;
    let ended = mecapy(&["tasks", "run", "456", "--url", &gateway.url]).await.expect(1);
    assert!(
        ended.stdout.contains("it ended with 1 (function-failed)\n  | ValueError\n"),
        "{ended:#?}"
    );
    assert!(ended.stderr.contains(&format!("mecapy tasks logs {TASK}")), "{ended:#?}");
    let ended =
        mecapy(&["tasks", "get", TASK, "--wait", "--json", "--url", &gateway.url]).await.expect(1);
    assert_eq!(ended.json()["error"]["code"], "function-failed");
}

#[tokio::test]
async fn without_waiting_the_task_is_only_begun() {
    let gateway = gateway_with_task(r#""status":"succeeded""#).await;
    let ended = mecapy(&["tasks", "run", "456", "--no-wait", "--json", "--url", &gateway.url])
        .await
        .expect(0);
    assert_eq!(ended.json()["task_id"], TASK);
    assert_eq!(gateway.lines(), ["POST /functions/456/tasks"]);
}

#[tokio::test]
async fn logs_go_to_the_stream_that_they_were_written_to() {
    let gateway = gateway_with_task(r#""status":"succeeded""#).await;
    let ended = mecapy(&["tasks", "logs", TASK, "--url", &gateway.url]).await.expect(0);
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\u{1b}[0m\n", "err\n"));
    let ended = mecapy(&["tasks", "logs", TASK, "--json", "--url", &gateway.url]).await.expect(0);
    assert_eq!(ended.json(), serde_json::json!({ "stdout": "out\u{1b}[0m\n", "stderr": "err\n" }));
    let ended = mecapy(&["tasks", "cancel", TASK, "--url", &gateway.url]).await.expect(0);
    assert_eq!(ended.stdout, format!("task {TASK}: cancelled\n"));
}

#[tokio::test]
async fn a_log_is_followed_over_a_lost_connection_without_a_line_twice() {
    let events = format!("GET /tasks/{TASK}/events");
    let gateway = FakeGateway::start(move |request, before| match before {
        0 => task(r#""status":"running""#),
        _ if request.line != events => problem(404, "not-found", "there is no such thing", None),
        // Only the first says something before it is lost.
        2 => Reply::Events(vec![
            Chunk::Text("event: status\ndata: {\"status\":\"running\"}\n\n"),
            Chunk::Break,
        ]),
        1 => Reply::Events(vec![
            Chunk::Text("event: status\ndata: {\"status\":\"running\"}\n\n"),
            Chunk::Text("event: log\nid: 1-4\ndata: {\"text\":\"one\\n\"}\n\nevent: lo"),
            Chunk::Break,
        ]),
        _ => Reply::Events(vec![Chunk::Text(
            "event: log\nid: 1-8\ndata: {\"text\":\"two\\n\"}\n\n\
             event: ended\ndata: {\"task_id\":\"018f4e3e-0000-7000-8000-00000000000a\",\"function_id\":456,\"status\":\"succeeded\"}\n\n",
        )]),
    })
    .await;
    let ended = mecapy(&["tasks", "logs", "-f", TASK, "--url", &gateway.url]).await.expect(0);
    assert_eq!(ended.stdout, "one\ntwo\n", "{ended:#?}");
    let requests = gateway.requests();
    let last: Vec<_> = requests.iter().map(|request| request.header("last-event-id")).collect();
    assert_eq!(last, [None, None, Some("1-4"), Some("1-4")]);
}

#[tokio::test]
async fn inputs_that_are_not_json_exit_2_before_anything_is_sent() {
    let gateway = gateway_with_task(r#""status":"succeeded""#).await;
    let ended = mecapy(&["tasks", "run", "456", "--inputs", "{nope}", "--url", &gateway.url])
        .await
        .expect(2);
    assert!(ended.stderr.contains("the inputs are not JSON"), "{ended:#?}");
    assert_eq!(gateway.lines(), [""; 0]);
}

#[tokio::test]
async fn an_interrupted_run_exits_130_and_names_the_task() {
    let gateway = gateway_with_task(r#""status":"running""#).await;
    let mut running = Running::start(&["tasks", "run", "456", "--url", &gateway.url]);
    running.says("running").await;
    running.interrupt().await;
    let ended = running.finish().await.expect(130);
    assert!(ended.stderr.contains(&format!("mecapy tasks get {TASK} --wait")), "{ended:#?}");
}
