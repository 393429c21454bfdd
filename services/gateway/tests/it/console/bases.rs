//! Base images: what is in force, runs, and functions that are built again on newer ones.

use mecapy_proto::BuildId;
use mecapy_proto::v1::{BaseRequested, BuildRequested};
use mecapy_store::builds::{self, Built, Place};
use mecapy_store::{StoredFailure, bases};

use super::browser::Browser;
use crate::door::{ACME, Door, OPS, VIEWER};

/// A run of one image, published with this digest.
async fn base(door: &Door, run: &str, digest: &str) {
    let id = BuildId::new();
    let mut conn = door.pool.acquire().await.unwrap();
    let cells = [(id, "3.11-slim".to_owned())];
    assert!(bases::create_run(&mut conn, run, "schedule", &cells).await.unwrap());
    builds::start(&door.pool, id).await.unwrap();
    let built = Built {
        staging_image: "r/s".into(),
        digest: digest.to_owned(),
        tag: "t".into(),
        size_bytes: 50_000_000,
        dependency_image: String::new(),
        lock_key: None,
        log_key: "l".into(),
        duration_ms: 1,
    };
    assert!(builds::built(&mut conn, id, &built).await.unwrap());
    assert!(builds::scanned(&mut conn, id, digest, true).await.unwrap());
    assert!(builds::published(&mut conn, id, "r/base").await.unwrap());
    let places = ["primary.test", "fallback.test"]
        .map(|registry| Place { registry: registry.to_owned(), digest: digest.to_owned() });
    builds::published_on(&mut conn, id, &places).await.unwrap();
}

/// Functions that stand on this base image.
async fn functions(door: &Door, count: usize, digest: &str) {
    for number in 0..count {
        let submitted = door.submit(&format!("f{number}")).await;
        door.make_ready(submitted.build()).await;
        let mut conn = door.pool.acquire().await.unwrap();
        bases::stands_on(&mut conn, submitted.build(), digest).await.unwrap();
    }
}

#[tokio::test]
async fn a_base_image_shows_where_it_is_and_a_run_who_asked_and_what_became_of_it() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    let none = ops.see("/console/bases").await;
    assert!(
        none.has("There was no run yet.") && none.has("No run has made one yet"),
        "{}",
        none.text
    );
    base(&door, "base-2025-10-05", "sha256:0123456789abcdef").await;
    let page = ops.see("/console/bases").await;
    for text in [
        "3.11-slim",
        "primary.test <code>0123456789ab</code>",
        "fallback.test <code>0123456789ab</code>",
        "50MB",
        "/console/bases/runs/base-2025-10-05",
        "schedule",
    ] {
        assert!(page.has(text), "{text} in {}", page.text);
    }

    let asked = ops.post("/console/bases/build", &[]).await;
    let place = asked.header("location").to_owned();
    let id = place.strip_prefix("/console/bases/runs/").unwrap().to_owned();
    let sent = door.published::<BaseRequested>("OPS", 1).await;
    assert_eq!((sent[0].0.run_id.as_str(), sent[0].0.reason.as_str()), (id.as_str(), "manual"));
    let waiting = ops.see(&place).await;
    assert!(waiting.has("No builder has begun it yet") && waiting.has("data-live"));
    let cell = BuildId::new();
    let mut conn = door.pool.acquire().await.unwrap();
    let cells = [(cell, "3.12-numpy".to_owned())];
    assert!(bases::create_run(&mut conn, &id, "manual", &cells).await.unwrap());
    let why = StoredFailure {
        code: "build-failed".into(),
        message: "<b>no wheel</b>".into(),
        log: vec!["its last line".into()],
    };
    assert!(builds::fail(&mut conn, cell, &why, None).await.unwrap());
    let page = ops.see(&place).await;
    for text in
        ["manual, ops", "&lt;b&gt;no wheel", "its last line", "1 failed", "/errors/build-failed"]
    {
        assert!(page.has(text), "{text} in {}", page.text);
    }
    assert!(!page.has("data-live"), "it has ended");
    assert!(ops.see("/console/bases").await.has("manual, ops"));
    let viewer = Browser::logged_in(&door, VIEWER).await;
    assert!(!viewer.see("/console/bases").await.has("Build the base images"));
}

#[tokio::test]
async fn functions_on_an_older_base_are_built_again_ten_at_a_time() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    base(&door, "one", "sha256:0000000000000001").await;
    functions(&door, 12, "sha256:0000000000000001").await;
    assert!(ops.see("/console/bases/stale").await.has("Every function stands on the newest"));
    base(&door, "two", "sha256:0000000000000002").await;
    let page = ops.see("/console/bases/stale").await;
    assert_eq!(page.links("/console/functions/").len(), 12);
    assert!(page.has("Build the first 10 of them again"), "{}", page.text);

    let question = ops.see("/console/bases/rebuild").await;
    let ids: Vec<&str> = question
        .text
        .split("name=\"id\" value=\"")
        .skip(1)
        .map(|rest| rest.split_once('"').unwrap().0)
        .collect();
    assert_eq!(ids.len(), 10);
    let fields: Vec<(&str, &str)> = ids.iter().map(|id| ("id", *id)).collect();
    let done = ops.post("/console/bases/rebuild", &fields).await;
    assert_eq!(done.header("location"), "/console/bases/stale?notice=rebuilding", "{}", done.text);
    let sent = door.published::<BuildRequested>("PIPELINE", 22).await;
    assert!(sent[12..].iter().all(|(event, _)| event.version == 1));
    // Pressed twice, it is done once; and only the two that are left are named.
    ops.post("/console/bases/rebuild", &fields).await;
    let question = ops.see("/console/bases/rebuild").await;
    assert_eq!(question.text.matches("name=\"id\"").count(), 2);
    let noted: i64 = sqlx::query_scalar(
        "select count(*) from audit where action = 'rebuild-function' and owner = 'ops'",
    )
    .fetch_one(&door.pool)
    .await
    .unwrap();
    assert_eq!(noted, 10);
}

#[tokio::test]
async fn an_owner_builds_a_function_again_from_its_page() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let own = Browser::logged_in(&door, ACME).await;
    let page = own.see(&format!("/console/functions/{function}")).await;
    let action = format!("action=\"/console/functions/{function}/rebuild\"");
    assert!(page.has(&action) && page.has("Build its newest version again"), "{}", page.text);
    let done = own.post(&format!("/console/functions/{function}/rebuild"), &[]).await;
    let place = done.header("location").to_owned();
    let build = own.see(&place).await;
    assert!(
        build.has("the function runs as it does now") && build.has(">queued<"),
        "{}",
        build.text
    );
    assert_eq!(door.published::<BuildRequested>("PIPELINE", 2).await[1].0.version, 1);
}
