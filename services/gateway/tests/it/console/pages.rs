//! What pages hold, and what browsers are told of them.

use mecapy_bus::{ReplicaStatus, Replicas, WorkerStatus, Workers};
use mecapy_objects::Key;
use mecapy_store::TaskState;
use mecapy_testkit::eventually;
use serde_json::json;

use super::browser::Browser;
use crate::door::{ACME, Door, IMAGE, OPS, OTHER, PATIENCE};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

#[tokio::test]
async fn every_page_has_the_strict_headers_and_no_script_or_style_in_it() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let build = door.get(&format!("/functions/{function}")).await.build();
    let task = door.post(&format!("/functions/{function}/tasks"), json!({})).await.task();
    let ops = Browser::logged_in(&door, OPS).await;
    let pages = [
        "/console".to_owned(),
        "/console/login".into(),
        "/console/functions".into(),
        format!("/console/functions/{function}"),
        format!("/console/functions/{function}/delete"),
        "/console/builds".into(),
        format!("/console/builds/{build}"),
        "/console/tasks".into(),
        format!("/console/tasks/{task}"),
        "/console/workers".into(),
        "/console/mirror".into(),
        "/console/registry".into(),
        "/console/dead-letters".into(),
        "/console/advisories".into(),
        "/console/audit".into(),
        "/console/nothing/here".into(),
        "/console/builds/x".into(),
    ];
    for path in pages {
        let page = ops.get(&path).await;
        assert_eq!(page.header("content-security-policy"), POLICY, "{path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "same-origin"),
            ("cache-control", "no-store"),
            ("content-type", "text/html; charset=utf-8"),
        ] {
            assert_eq!(page.header(name), value, "{path}: {name}");
        }
        assert!(page.has("<html lang=\"en\">") && page.has("<h1>"), "{path}");
        for inline in
            ["<script>", "<style", " style=\"", " onclick=", "javascript:", "http://", "https://"]
        {
            // Namespaces of pictures are no addresses.
            let text = page.text.replace("http://www.w3.org", "");
            assert!(!text.contains(inline), "{inline} in {path}: {text}");
        }
    }
    assert_eq!(ops.get("/console/nothing/here").await.status, 404);
    assert_eq!(ops.get("/console/builds/x").await.status, 404);
}

#[tokio::test]
async fn style_and_script_are_kept_by_browsers_under_names_of_their_own() {
    let door = Door::open().await;
    let browser = Browser::logged_in(&door, ACME).await;
    let page = browser.see("/console").await;
    let style = page.links("/console/assets/console-").remove(0);
    let (_, script) = page.text.split_once("<script src=\"").unwrap();
    let script = script.split_once('"').unwrap().0;
    let nobody = Browser::new(&door);
    for (path, kind) in [(style.as_str(), "text/css"), (script, "text/javascript")] {
        let asset = nobody.see(path).await;
        assert!(asset.header("content-type").starts_with(kind));
        assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
    }
    assert_eq!(nobody.get("/console/assets/console-0.css").await.status, 404);
}

#[tokio::test]
async fn a_build_shows_where_its_image_is_and_what_was_found() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let build = door.get(&format!("/functions/{function}")).await.build();
    for (key, text) in [
        (Key::dockerfile(build), "FROM scratch\n"),
        (Key::lock(build), "numpy==1.24.0 --hash=sha256:00\n"),
        (Key::build_log(build), "resolving\nbuilt\n"),
        (Key::given("s"), "{\"bomFormat\": \"CycloneDX\"}"),
    ] {
        door.objects.put(&key, text.into()).await.unwrap();
    }
    let acme = Browser::logged_in(&door, ACME).await;
    let shown = [
        "class=\"badge good\">ready<",
        IMAGE,
        "registry.test/mecapy/staging/x@sha256:",
        "no copy is on record",
        "FROM scratch",
        "numpy==1.24.0 --hash",
        "resolving\nbuilt",
        "CVE-2023-1234",
        "upgrade to <strong>1.26.0</strong>",
        "Asked for by</dt><dd>acme",
        "Where the time went",
    ];
    let page = acme.see_all(&format!("/console/builds/{build}"), &shown).await;
    assert!(!page.has("Cancel this build") && !page.has("data-live"), "it has ended");
    let sbom = acme.see(&format!("/console/builds/{build}/sbom")).await;
    assert_eq!(sbom.header("content-type"), "text/plain; charset=utf-8");
    assert!(sbom.has("CycloneDX"));
    assert_eq!(acme.get(&format!("/console/builds/{build}/sarif")).await.status, 404);
    assert_eq!(acme.get(&format!("/console/builds/{build}/else")).await.status, 404);
}

#[tokio::test]
async fn a_build_that_failed_or_was_rejected_says_why() {
    let door = Door::open().await;
    let (failed, rejected) =
        (door.submit("failed").await.build(), door.submit("rejected").await.build());
    door.fail(failed).await;
    door.scan(rejected, 1).await;
    let acme = Browser::logged_in(&door, ACME).await;
    let page = acme.see(&format!("/console/builds/{failed}")).await;
    assert!(
        page.has("href=\"/errors/requirement-not-found\"") && page.has("`nunpy`"),
        "{}",
        page.text
    );
    assert!(page.has("last line"));
    let page = acme.see(&format!("/console/builds/{rejected}")).await;
    assert!(
        page.has(">REJECTED<") && page.has("1 critical") && page.has(">CRITICAL<"),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn a_task_shows_how_it_went_and_what_it_left() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let run = async || door.post(&format!("/functions/{function}/tasks"), json!({})).await.task();
    let (good, bad, queued) = (run().await, run().await, run().await);
    let key = Key::task_result(good, 1);
    door.objects.put(&key, "{\"mean\": 17.5}".into()).await.unwrap();
    door.objects.put(&Key::task_stdout(good, 1), "said\n".into()).await.unwrap();
    door.complete(good, TaskState::Succeeded, Some(key.to_string())).await;
    door.complete(bad, TaskState::Failed, None).await;
    let acme = Browser::logged_in(&door, ACME).await;
    let shown = ["&quot;mean&quot;: 17.5", "said\n", ">HIT<", "Where the time went", "worker"];
    acme.see_all(&format!("/console/tasks/{good}"), &shown).await;
    assert!(acme.see(&format!("/console/tasks/{good}/result")).await.has("{\"mean\": 17.5}"));
    assert!(acme.see(&format!("/console/tasks/{good}/log")).await.has("said"));
    let page = acme.see(&format!("/console/tasks/{bad}")).await;
    assert!(
        page.has("href=\"/errors/function-failed\"") && page.has("(exit code 1)"),
        "{}",
        page.text
    );
    let page = acme.see(&format!("/console/tasks/{queued}")).await;
    assert!(page.has("Cancel this task") && page.has(&format!("/console/events/tasks/{queued}")));
}

#[tokio::test]
async fn the_overview_shows_what_is_where_and_who_is_there() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    door.submit("queued").await;
    let task = door.post(&format!("/functions/{function}/tasks"), json!({})).await.task();
    door.complete(task, TaskState::Succeeded, None).await;
    door.post(&format!("/functions/{function}/tasks"), json!({})).await;
    let now = chrono::Utc::now();
    let status = ReplicaStatus {
        service: "builder".into(),
        replica: "host-1".into(),
        version: "0.1.0".into(),
        started_at: now,
        seen_at: now,
        waiting_for: [("postgres".to_owned(), "connection refused".to_owned())].into(),
        is_stopping: false,
    };
    let worker = WorkerStatus {
        name: "one".into(),
        slots: 4,
        running: 1,
        started_at: now,
        seen_at: now,
        ..WorkerStatus::default()
    };
    let (replicas, workers) = (Replicas::new(door.bus.clone()), Workers::new(door.bus.clone()));

    let ops = Browser::logged_in(&door, OPS).await;
    let shown = [
        "<span class=\"name\">Requested</span><span class=\"count\">1</span>",
        "<span class=\"name\">Queued</span><span class=\"count\">1</span>",
        "2 asked for, 1 ready",
        "There are no dead letters.",
        "connection refused",
        "no replica has said anything lately",
        "build.requested",
    ];
    eventually(&format!("the overview shows all of {shown:?}"), PATIENCE, async || {
        // Who says nothing for some time is forgotten.
        replicas.tell(&status).await.unwrap();
        workers.tell(&worker).await.unwrap();
        let (overview, slots) = (ops.see("/console").await, ops.see("/console/workers").await);
        let is_there = slots.has("1 of 4") && slots.has(">free<");
        (is_there && shown.iter().all(|text| overview.has(text))).then_some(())
    })
    .await;

    let other = Browser::logged_in(&door, OTHER).await;
    let page = other.see("/console").await;
    assert!(page.has("<span class=\"name\">Requested</span><span class=\"count\">0</span>"));
    assert!(page.has("0 asked for, 0 ready") && !page.has("Consumers"), "{}", page.text);
}

#[tokio::test]
async fn a_page_comes_without_what_cannot_be_reached() {
    let door = Door::open().await;
    let build = door.submit("stats").await.build();
    door.make_ready(build).await;
    // Nothing of it is on S3.
    let acme = Browser::logged_in(&door, ACME).await;
    let page = acme.see(&format!("/console/builds/{build}")).await;
    assert!(page.has("It left no log"), "{}", page.text);
}
