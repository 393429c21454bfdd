//! Functions: what a submission leaves behind.

use bytes::Bytes;
use mecapy_objects::Key;
use mecapy_proto::inputs_sha256;
use mecapy_proto::v1::BuildRequested;
use mecapy_proto::v1::build_requested::Source;
use mecapy_store::{BuildState, builds, functions};
use reqwest::Method;
use serde_json::{Value, json};

use crate::door::{ACME, Door, answer, submission};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_submission_is_a_version_a_build_and_an_event() {
    let door = Door::open().await;
    let submitted = door.submit("stats").await;
    assert_eq!(submitted.status, 202);
    let (function, build) = (submitted.function(), submitted.build());
    assert_eq!(submitted.header("location"), format!("/functions/{function}/builds/{build}"));
    let empty = json!({
        "function_id": function, "name": "stats", "owner": "acme", "build_id": build, "version": 1,
        "status": "queued", "docker_image": null, "image_size": null, "build_time": null, "vulnerabilities": null,
        "error": null, "created_at": submitted.body["created_at"],
    });
    assert_eq!(submitted.body, empty);
    for path in [
        submitted.header("location"),
        &format!("/functions/{function}"),
        &format!("/builds/{build}"),
    ] {
        assert_eq!(door.get(path).await.body, empty, "{path}");
    }

    let row = builds::get(&door.pool, build).await.unwrap().unwrap();
    assert_eq!((row.state, row.version), (BuildState::Queued, 1));
    let id = row.function_id().unwrap().unwrap();
    let version = functions::version(&door.pool, id, 1).await.unwrap().unwrap();
    assert_eq!(
        version.inputs_sha256,
        inputs_sha256(b"print(1)\n", "numpy==1.24.0\n", "3.11", "slim")
    );

    let (event, headers) = door.published::<BuildRequested>("PIPELINE", 1).await.remove(0);
    assert_eq!(
        (event.build_id, event.function_id, event.version),
        (build.to_string(), function, 1)
    );
    assert_eq!(
        (event.owner.as_str(), event.python_version.as_str(), event.base_variant.as_str()),
        ("acme", "3.11", "slim")
    );
    assert_eq!(event.source, Some(Source::Code("print(1)\n".into())));
    assert_eq!(event.requirements, "numpy==1.24.0\n");
    assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), format!("build.requested/{build}"));
    assert_eq!(headers.get("ce-source").unwrap().as_str(), "mecapy/gateway");
}

#[tokio::test]
async fn the_callers_trace_goes_on_in_the_event() {
    let door = Door::open().await;
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let request = door.request(Method::POST, "/functions").header("traceparent", &traceparent);
    assert_eq!(answer(request.json(&submission("stats"))).await.status, 202);
    let (_, headers) = door.published::<BuildRequested>("PIPELINE", 1).await.remove(0);
    let sent = headers.get("traceparent").unwrap().as_str();
    assert!(sent.contains(TRACE) && sent != traceparent, "{sent}");
}

#[tokio::test]
async fn code_that_an_event_cannot_carry_is_in_the_object_store_first() {
    let door = Door::open().await;
    let code = format!("x = 1\n{}", "#".repeat(600 * 1024));
    let submitted = door.post("/functions", json!({ "name": "large", "code": code })).await;
    let (event, _) = door.published::<BuildRequested>("PIPELINE", 1).await.remove(0);
    let key = Key::source(submitted.build());
    assert_eq!(event.source, Some(Source::SourceS3Key(key.to_string())));
    assert_eq!(door.objects.get(&key, 1 << 20).await.unwrap(), Some(Bytes::from(code)));
}

#[tokio::test]
async fn the_same_name_again_is_the_next_version() {
    let door = Door::open().await;
    let (first, second) = (door.submit("stats").await, door.submit("stats").await);
    assert_eq!(first.function(), second.function());
    assert_eq!((&first.body["version"], &second.body["version"]), (&json!(1), &json!(2)));
    let newest = door.get(&format!("/functions/{}", first.function())).await;
    assert_eq!(newest.build(), second.build());
    let older = door.get(&format!("/builds/{}", first.build())).await;
    assert_eq!(older.body["version"], 1);
}

async fn with_key(door: &Door, key: &str, body: &Value) -> crate::door::Answer {
    answer(door.request(Method::POST, "/functions").header("Idempotency-Key", key).json(body)).await
}

#[tokio::test]
async fn one_key_is_one_build_however_often_it_comes() {
    let door = Door::open().await;
    let body = submission("stats");
    let (one, two, three) = tokio::join!(
        with_key(&door, "k", &body),
        with_key(&door, "k", &body),
        with_key(&door, "k", &body)
    );
    let again = with_key(&door, "k", &body).await;
    for answer in [&one, &two, &three, &again] {
        assert_eq!(
            (answer.status, answer.build(), &answer.body["version"]),
            (202, one.build(), &json!(1))
        );
    }
    let other = with_key(&door, "k2", &body).await;
    assert_ne!(other.build(), one.build());
    door.published::<BuildRequested>("PIPELINE", 2).await;
}

#[tokio::test]
async fn a_key_of_another_submission_is_refused() {
    let door = Door::open().await;
    with_key(&door, "k", &submission("stats")).await;
    let mut changed = submission("stats");
    changed["code"] = "print(2)\n".into();
    for body in [changed, submission("other")] {
        let refused = with_key(&door, "k", &body).await;
        assert_eq!(refused.problem(), (422, "invalid-field", "Idempotency-Key"));
    }
    let refused = with_key(&door, &"k".repeat(256), &submission("stats")).await;
    assert_eq!(refused.problem(), (422, "invalid-field", "Idempotency-Key"));
}

#[tokio::test]
async fn functions_are_listed_by_pages() {
    let door = Door::open().await;
    let mut submitted = Vec::new();
    for name in ["a", "b", "c"] {
        submitted.push(door.submit(name).await.function());
    }
    let ids = |page: &crate::door::Answer| -> Vec<i64> {
        let functions = page.body["functions"].as_array().unwrap();
        functions.iter().map(|function| function["function_id"].as_i64().unwrap()).collect()
    };
    let first = door.get("/functions?page_size=2").await;
    assert_eq!(ids(&first), submitted[..2]);
    let second = door
        .get(&format!("/functions?page_size=2&page_token={}", first.text("/next_page_token")))
        .await;
    assert_eq!(ids(&second), submitted[2..]);
    assert_eq!(second.body["next_page_token"], Value::Null);
    assert_eq!(ids(&door.get("/functions?page_size=3").await), submitted);
}

#[tokio::test]
async fn a_deleted_function_is_gone_and_its_name_is_free() {
    let door = Door::open().await;
    let submitted = door.submit("stats").await;
    let path = format!("/functions/{}", submitted.function());
    assert_eq!(answer(door.request(Method::DELETE, &path)).await.status, 204);
    assert_eq!(door.get(&path).await.problem(), (404, "unknown-function", ""));
    assert_eq!(answer(door.request(Method::DELETE, &path)).await.problem().0, 404);
    assert_eq!(door.get(&format!("/builds/{}", submitted.build())).await.problem().0, 404);
    let again = door.submit("stats").await;
    assert_ne!(again.function(), submitted.function());
    assert_eq!(again.body["version"], 1);
}

#[tokio::test]
async fn the_log_of_a_build_is_there_when_it_is_stored() {
    let door = Door::open().await;
    let build = door.submit("stats").await.build();
    let path = format!("/builds/{build}/logs");
    assert_eq!(door.get(&path).await.problem(), (404, "not-found", ""));
    door.objects
        .put(&Key::build_log(build), Bytes::from_static(b"Collecting numpy\n"))
        .await
        .unwrap();
    let log = door.get(&path).await;
    assert_eq!((log.status, log.header("content-type")), (200, "text/plain; charset=utf-8"));
    assert_eq!(log.body, json!("Collecting numpy\n"));
}

#[tokio::test]
async fn a_build_of_another_function_is_not_found_below_this_one() {
    let door = Door::open().await;
    let (one, other) = (door.submit("one").await, door.submit("other").await);
    let refused =
        door.get(&format!("/functions/{}/builds/{}", one.function(), other.build())).await;
    assert_eq!(refused.problem(), (404, "not-found", ""));
}

#[tokio::test]
async fn a_token_may_be_written_in_any_case_of_its_scheme() {
    let door = Door::open().await;
    let request = door
        .http
        .get(format!("{}/functions", door.url))
        .header("authorization", format!("bearer {ACME}"));
    assert_eq!(answer(request).await.status, 200);
}
