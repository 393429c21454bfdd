//! `Prefer: wait=N` holds a call until the end state.

use std::time::Duration;

use mecapy_gateway::Options;
use mecapy_proto::v1::PushDone;
use mecapy_testkit::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::door::{Answer, Door, IMAGE, PATIENCE, answer, submission};

async fn submit_and_wait(door: &Door, seconds: u32) -> Answer {
    let request =
        door.request(Method::POST, "/functions").header("Prefer", format!("wait={seconds}"));
    answer(request.json(&submission("stats"))).await
}

/// The build of the only function, once it is there.
async fn its_build(door: &Door) -> mecapy_proto::BuildId {
    eventually("the function is stored", PATIENCE, async || {
        let list = door.get("/functions").await;
        list.text("/functions/0/build_id").parse().ok()
    })
    .await
}

#[tokio::test]
async fn a_held_submission_is_answered_with_the_final_response() {
    let door = Door::open().await;
    let (answer, build) = tokio::join!(submit_and_wait(&door, 60), async {
        let build = its_build(&door).await;
        door.make_ready(build).await;
        build
    });
    assert_eq!((answer.status, answer.header("preference-applied")), (200, "wait=60"));
    assert_eq!(
        answer.header("location"),
        format!("/functions/{}/builds/{build}", answer.function())
    );
    assert_eq!(
        answer.body,
        json!({
            "function_id": answer.function(), "name": "stats", "owner": "acme", "build_id": build, "version": 1,
            "status": "ready", "docker_image": IMAGE, "image_size": "245MB", "build_time": "42s",
            "vulnerabilities": {
                "critical": 0, "high": 1, "warnings": ["numpy 1.24.0 has HIGH CVE-2023-1234"], "database_partial": false,
            },
            "error": null, "created_at": answer.body["created_at"],
        })
    );
}

#[tokio::test]
async fn an_event_that_passes_by_wakes_those_who_wait_for_its_build() {
    // Only an event can wake them: the next look by themselves is too late for anyone.
    let door = Door::open_with(Options { look_every_seconds: 3_600, ..Options::default() }).await;
    let answered = CancellationToken::new();
    let held = async {
        let answer = submit_and_wait(&door, 120).await;
        answered.cancel();
        answer
    };
    let (answer, ()) = tokio::join!(held, async {
        let build = its_build(&door).await;
        door.make_ready(build).await;
        let event = PushDone { build_id: build.to_string(), ..Default::default() };
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("ce-subject", build.to_string());
        headers.insert("content-type", "application/json");
        let body = serde_json::to_vec(&event).unwrap();
        // Until it is heard: the gateway may not listen yet.
        while !answered.is_cancelled() {
            let (headers, body) = (headers.clone(), body.clone().into());
            let sent = door.jetstream.publish_with_headers("push.done", headers, body);
            sent.await.unwrap().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert_eq!((answer.status, answer.text("/status")), (200, "ready"));
}

#[tokio::test]
async fn a_build_that_failed_is_an_end_too() {
    let door = Door::open().await;
    let (answer, ()) = tokio::join!(submit_and_wait(&door, 60), async {
        let build = its_build(&door).await;
        door.fail(build).await;
    });
    assert_eq!((answer.status, answer.text("/status")), (200, "failed"));
    assert_eq!(
        answer.body["error"],
        json!({ "code": "requirement-not-found", "message": "there is no package `nunpy`", "log_tail": ["last line"] })
    );
    assert_eq!(answer.body["docker_image"], Value::Null);
}

#[tokio::test]
async fn a_rejected_build_says_what_to_update() {
    let door = Door::open().await;
    let (answer, ()) = tokio::join!(submit_and_wait(&door, 60), async {
        let build = its_build(&door).await;
        door.scan(build, 1).await;
    });
    assert_eq!((answer.status, answer.text("/status")), (200, "rejected"));
    assert_eq!(answer.body["vulnerabilities"]["critical"], 1);
    assert_eq!(answer.text("/error/code"), "rejected");
    assert!(
        answer
            .text("/error/message")
            .contains("numpy 1.24.0 has CRITICAL CVE-2023-1234 (fixed in 1.26.0)")
    );
    assert_eq!(answer.body["docker_image"], Value::Null);
}

#[tokio::test]
async fn when_the_time_is_over_the_answer_is_what_there_is() {
    let door = Door::open().await;
    let answer = submit_and_wait(&door, 1).await;
    assert_eq!((answer.status, answer.text("/status")), (202, "queued"));
    assert_eq!(answer.header("preference-applied"), "wait=1");
}

#[tokio::test]
async fn looking_at_a_function_can_wait_too() {
    let door = Door::open().await;
    let submitted = door.submit("stats").await;
    let path = format!("/functions/{}", submitted.function());
    let request = door.request(Method::GET, &path).header("Prefer", "respond-async, wait=60");
    let (answer, ()) = tokio::join!(answer(request), door.make_ready(submitted.build()));
    assert_eq!((answer.status, answer.text("/status")), (200, "ready"));
}

#[tokio::test]
async fn a_newer_version_that_failed_shows_itself_and_the_older_one_still_runs() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let second = door.submit("stats").await;
    door.fail(second.build()).await;
    let newest = door.get(&format!("/functions/{function}")).await;
    assert_eq!((newest.text("/status"), &newest.body["docker_image"]), ("failed", &Value::Null));
    let task = door.post(&format!("/functions/{function}/tasks"), json!({})).await;
    assert_eq!(task.status, 202);
}

#[tokio::test]
async fn shutdown_answers_those_who_wait_and_ends_the_server() {
    let mut door = Door::open().await;
    let (answer, ()) = tokio::join!(submit_and_wait(&door, 300), async {
        its_build(&door).await;
        door.shutdown.cancel();
    });
    assert_eq!((answer.status, answer.text("/status")), (202, "queued"));
    tokio::time::timeout(PATIENCE, &mut door.serving).await.unwrap().unwrap();
}
