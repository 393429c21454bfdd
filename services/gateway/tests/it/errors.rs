//! Every error is a problem that names its code, and the field where one is wrong.

use mecapy_gateway::Options;
use mecapy_store::outbox::{self, Message};
use mecapy_testkit::eventually;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::door::{Door, PATIENCE, answer, submission};

fn with(field: &str, value: Value) -> Value {
    let mut body = submission("stats");
    body[field] = value;
    body
}

fn lines(count: usize) -> Value {
    (0..count).map(|i| format!("p{i}==1\n")).collect::<String>().into()
}

#[tokio::test]
async fn each_wrong_field_of_a_submission_is_named_under_its_own_code() {
    let door = Door::open().await;
    for (body, problem) in [
        (with("name", Value::Null), (422, "invalid-field", "name")),
        (with("name", "No Good".into()), (422, "invalid-field", "name")),
        (with("name", 5.into()), (422, "invalid-field", "name")),
        (with("code", Value::Null), (422, "invalid-field", "code")),
        (with("code", "".into()), (422, "invalid-field", "code")),
        (with("code", "#".repeat(1_048_577).into()), (413, "code-too-large", "code")),
        (with("requirements", json!(["numpy"])), (422, "invalid-field", "requirements")),
        (with("requirements", lines(51)), (422, "too-many-requirements", "requirements")),
        (with("python_version", "2.7".into()), (422, "unsupported-python", "python_version")),
        (with("python_version", 3.11.into()), (422, "invalid-field", "python_version")),
        (with("base_variant", "alpine".into()), (422, "unsupported-variant", "base_variant")),
        (with("requirments", "numpy".into()), (422, "invalid-field", "requirments")),
    ] {
        let refused = door.post("/functions", body).await;
        assert_eq!(refused.problem(), problem, "{}", refused.body);
    }
    assert_eq!(door.get("/functions").await.body["functions"], json!([]), "nothing was stored");
}

#[tokio::test]
async fn what_is_at_the_limits_is_accepted() {
    let door = Door::open().await;
    let mut body = with("requirements", lines(50));
    body["code"] = "#".repeat(1_048_576).into();
    assert_eq!(door.post("/functions", body).await.status, 202);
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_a_problem_too() {
    let door = Door::open().await;
    let post = |path: &str| door.request(Method::POST, path);
    let json =
        |path: &str, body: String| post(path).header(CONTENT_TYPE, "application/json").body(body);
    for (request, problem) in [
        (json("/functions", "{\"name\": ".into()), (400, "malformed-body", "")),
        (json("/functions", "[]".into()), (400, "malformed-body", "")),
        (json("/functions", " ".repeat(4 << 20)), (413, "body-too-large", "")),
        (post("/functions").body("name=x"), (415, "unsupported-media-type", "")),
        (
            post("/functions").header(CONTENT_TYPE, "text/plain").body("{}"),
            (415, "unsupported-media-type", ""),
        ),
        (post("/functions"), (422, "invalid-field", "name")),
        (json("/functions/1/tasks", " ".repeat(12 << 20)), (413, "inputs-too-large", "inputs")),
        (door.request(Method::GET, "/nothing"), (404, "not-found", "")),
        (door.request(Method::GET, "/functions/abc"), (404, "unknown-function", "")),
        (door.request(Method::GET, "/functions/%ff"), (400, "malformed-body", "")),
        (door.request(Method::GET, "/builds/abc"), (404, "not-found", "")),
        (door.request(Method::GET, "/tasks/abc"), (404, "not-found", "")),
        (door.request(Method::GET, "/errors/none"), (404, "not-found", "")),
        (door.request(Method::GET, "/functions?page_size=x"), (422, "invalid-field", "page_size")),
        (
            door.request(Method::GET, "/functions?page_token=x"),
            (422, "invalid-field", "page_token"),
        ),
    ] {
        let refused = answer(request).await;
        assert_eq!(refused.problem(), problem, "{}", refused.body);
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_answered_with_those_that_it_has() {
    let door = Door::open().await;
    let refused = answer(door.request(Method::PUT, "/functions")).await;
    assert_eq!(refused.problem(), (405, "method-not-allowed", ""));
    let mut allowed: Vec<&str> = refused.header("allow").split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

#[tokio::test]
async fn a_problem_points_to_the_page_of_its_code() {
    let door = Door::open().await;
    let refused = door.post("/functions", with("python_version", "2.7".into())).await;
    let page = door.get(refused.text("/type")).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/markdown; charset=utf-8"));
    assert!(page.body.as_str().unwrap().starts_with(&format!("# {}\n", refused.text("/title"))));
}

#[tokio::test]
async fn a_database_that_is_away_is_503_with_when_to_come_again() {
    let door = Door::open().await;
    door.pool.close().await;
    let refused = door.submit("stats").await;
    assert_eq!(refused.problem(), (503, "unavailable", ""));
    assert_eq!(refused.header("retry-after"), "5");
}

#[tokio::test]
async fn while_messages_cannot_go_out_no_more_work_is_taken() {
    let door = Door::open_with(Options { max_waiting_messages: 0, ..Options::default() }).await;
    let stuck = Message {
        subject: "of.no.stream".into(),
        message_id: "of.no.stream/1".into(),
        payload: Vec::new(),
        traceparent: None,
    };
    let mut conn = door.pool.acquire().await.unwrap();
    outbox::insert(&mut conn, "gateway", &[stuck]).await.unwrap();
    let refused = eventually("work is refused", PATIENCE, async || {
        let answer = door.submit("stats").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(refused.problem(), (503, "unavailable", ""));
    assert_eq!(door.get("/functions").await.status, 200, "what is there can be looked at");
}
