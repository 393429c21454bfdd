//! Building again what was built before.

use bytes::Bytes;
use mecapy_objects::Key;
use mecapy_proto::BuildId;
use mecapy_proto::v1::BuildRequested;
use mecapy_proto::v1::build_requested::Source;
use reqwest::Method;
use serde_json::json;

use crate::door::{Answer, Door, OPS, OTHER, VIEWER, answer};

async fn rebuild(door: &Door, function: i64) -> Answer {
    door.post(&format!("/functions/{function}/rebuild"), json!({})).await
}

/// What the builder leaves of a build that it ended.
async fn keep_source(door: &Door, build: BuildId) {
    sqlx::query("delete from kept_events").execute(&door.pool).await.unwrap();
    door.objects.put(&Key::source(build), Bytes::from_static(b"print(1)\n")).await.unwrap();
}

#[tokio::test]
async fn a_function_is_built_again_under_its_version_and_once_at_a_time() {
    let door = Door::open().await;
    let first = door.submit("stats").await;
    door.make_ready(first.build()).await;
    keep_source(&door, first.build()).await;
    let again = rebuild(&door, first.function()).await;
    assert_eq!((again.status, again.text("/status")), (202, "queued"), "{}", again.body);
    assert_ne!(again.build(), first.build());
    assert_eq!(again.body["version"], 1);
    let place = format!("/functions/{}/builds/{}", first.function(), again.build());
    assert_eq!(again.header("location"), place);

    let sent = door.published::<BuildRequested>("PIPELINE", 2).await;
    let (event, headers) = &sent[1];
    assert_eq!((event.build_id.clone(), event.version), (again.build().to_string(), 1));
    assert_eq!(event.requirements, "numpy==1.24.0\n");
    assert_eq!(event.source, Some(Source::SourceS3Key(Key::source(first.build()).to_string())));
    assert!(headers.get("traceparent").is_some());
    // As it does now, until that is ready.
    assert_eq!(
        door.get(&format!("/functions/{}", first.function())).await.text("/status"),
        "ready"
    );

    let same = rebuild(&door, first.function()).await;
    assert_eq!((same.status, same.build()), (202, again.build()));
    door.make_ready(again.build()).await;
    keep_source(&door, again.build()).await;
    let third = rebuild(&door, first.function()).await;
    assert_ne!(third.build(), again.build());

    let noted: Vec<(String, String, String)> = sqlx::query_as(
        "select action, target, detail->>'build_id' from audit where action = 'rebuild-function' order by id",
    )
    .fetch_all(&door.pool)
    .await
    .unwrap();
    let expected = [again.build(), third.build()].map(|build| {
        ("rebuild-function".to_owned(), first.function().to_string(), build.to_string())
    });
    assert_eq!(noted, expected);
}

#[tokio::test]
async fn what_failed_is_built_again_as_long_as_its_code_is_kept() {
    let door = Door::open().await;
    let failed = door.submit("stats").await;
    door.fail(failed.build()).await;
    let again = rebuild(&door, failed.function()).await;
    assert_eq!(again.status, 202, "{}", again.body);
    let sent = door.published::<BuildRequested>("PIPELINE", 2).await;
    assert_eq!(sent[1].0.source, Some(Source::Code("print(1)\n".to_owned())));

    door.fail(again.build()).await;
    sqlx::query("delete from kept_events").execute(&door.pool).await.unwrap();
    let refused = rebuild(&door, failed.function()).await;
    assert_eq!(refused.problem(), (422, "source-missing", "function_id"));
}

#[tokio::test]
async fn only_who_may_change_a_function_builds_it_again() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let path = format!("{}/functions/{function}/rebuild", door.url);
    let by = |token| answer(door.http.request(Method::POST, &path).bearer_auth(token));
    assert_eq!(by(OTHER).await.problem(), (404, "unknown-function", ""));
    assert_eq!(by(VIEWER).await.problem(), (403, "forbidden", ""));
    assert_eq!(by(OPS).await.status, 202);
    assert_eq!(rebuild(&door, 999_999).await.problem(), (404, "unknown-function", ""));
}
