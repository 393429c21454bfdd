//! Waterfalls of builds and tasks.

use chrono::{DateTime, TimeDelta, Utc};
use mecapy_proto::BuildId;
use mecapy_store::stages::{Outcome, Stage, Step};
use mecapy_store::{TaskState, builds, inbox, stages, tasks};
use mecapy_testkit::eventually;
use reqwest::Method;
use serde_json::{Value, json};

use crate::door::{ACME, Answer, Door, OPS, OTHER, PATIENCE, answer};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// (name, depth, status, attempt) of each span.
fn outline(waterfall: &Answer) -> Vec<(String, u64, String, u64)> {
    assert_eq!(waterfall.status, 200, "{}", waterfall.body);
    let whole = waterfall.body["duration_ms"].as_f64().unwrap();
    let text = |span: &Value, key: &str| span[key].as_str().unwrap().to_owned();
    let spans = waterfall.body["spans"].as_array().unwrap();
    for span in spans {
        let (offset, took) =
            (span["offset_ms"].as_f64().unwrap(), span["duration_ms"].as_f64().unwrap());
        assert!(offset >= 0.0 && took >= 0.0 && offset <= whole, "{span} of {whole}");
    }
    spans
        .iter()
        .map(|span| {
            let number = |key: &str| span[key].as_u64().unwrap();
            (text(span, "name"), number("depth"), text(span, "status"), number("attempt"))
        })
        .collect()
}

fn is(outline: &[(String, u64, String, u64)], expected: &[(&str, u64, &str, u64)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, depth, status, attempt)| {
            ((*name).to_owned(), *depth, (*status).to_owned(), *attempt)
        })
        .collect();
    assert_eq!(outline, expected);
}

/// A stage of so many milliseconds from a time on, with steps of a millisecond each.
fn stage(name: &str, delivery: u64, from: DateTime<Utc>, steps: &[(&str, bool)]) -> Stage {
    let at = |ms| from + TimeDelta::milliseconds(ms);
    Stage {
        name: name.to_owned(),
        service: format!("{name}er"),
        delivery,
        trace_id: Some(TRACE.to_owned()),
        started_at: from,
        ended_at: at(20),
        outcome: Outcome::Done,
        steps: (0..)
            .zip(steps)
            .map(|(number, (name, failed))| Step {
                name: (*name).to_owned(),
                started_at: at(number),
                ended_at: at(number + 1),
                failed: *failed,
            })
            .collect(),
    }
}

/// Notes it as a service does: with the message that it handled.
async fn note(door: &Door, build: BuildId, stage: &Stage) {
    let mut conn = door.pool.acquire().await.unwrap();
    let message = format!("{}/{build}/{}", stage.name, stage.delivery);
    let recorded =
        inbox::record_stage(&mut conn, "test", &message, &stage.service, &[], build, stage).await;
    assert!(recorded.unwrap().is_some());
    let again =
        inbox::record_stage(&mut conn, "test", &message, &stage.service, &[], build, stage).await;
    assert_eq!(again.unwrap(), None, "a message that is handled again notes nothing");
}

#[tokio::test]
async fn a_build_is_shown_as_the_services_noted_it() {
    let door = Door::open().await;
    let submit = door.request(Method::POST, "/functions").header("traceparent", TRACEPARENT);
    let build = answer(submit.json(&crate::door::submission("stats"))).await.build();
    let path = format!("/builds/{build}/trace");
    let queued = door.get(&path).await;
    is(&outline(&queued), &[("queue", 0, "running", 1)]);
    assert_eq!((queued.text("/kind"), queued.text("/status")), ("build", "queued"));
    assert_eq!((queued.text("/id"), queued.text("/trace_id")), (build.to_string().as_str(), TRACE));
    assert_eq!(queued.body["ended_at"], Value::Null);

    let began = Utc::now();
    let at = |ms| began + TimeDelta::milliseconds(ms);
    eventually("all of it is past", PATIENCE, async || (Utc::now() > at(120)).then_some(())).await;
    let retried = Stage {
        outcome: Outcome::Retried,
        ..stage("build", 1, at(10), &[("validate", false), ("lock", true)])
    };
    stages::add(&door.pool, build, &retried).await.unwrap();
    builds::start(&door.pool, build).await.unwrap();
    let building = door.get(&path).await;
    is(
        &outline(&building),
        &[
            ("queue", 0, "done", 1),
            ("build", 0, "retried", 1),
            ("validate", 1, "done", 1),
            ("lock", 1, "failed", 1),
            ("build", 0, "running", 1),
        ],
    );

    note(&door, build, &stage("build", 2, at(40), &[("lock", false), ("push", false)])).await;
    let replayed = "0af7651916cd43dd8448eb211c80319c";
    let scan = Stage {
        trace_id: Some(replayed.to_owned()),
        ..stage("scan", 1, at(70), &[("scan image", false)])
    };
    note(&door, build, &scan).await;
    door.make_ready(build).await;
    note(&door, build, &stage("publish", 1, at(100), &[("copy", false)])).await;
    let ready = door.get(&path).await;
    is(
        &outline(&ready),
        &[
            ("queue", 0, "done", 1),
            ("build", 0, "retried", 1),
            ("validate", 1, "done", 1),
            ("lock", 1, "failed", 1),
            ("build", 0, "done", 2),
            ("lock", 1, "done", 2),
            ("push", 1, "done", 2),
            ("scan", 0, "done", 1),
            ("scan image", 1, "done", 1),
            ("publish", 0, "done", 1),
            ("copy", 1, "done", 1),
        ],
    );
    assert_eq!((ready.text("/status"), ready.text("/trace_id")), ("ready", TRACE));
    assert!(!ready.text("/ended_at").is_empty());
    assert_eq!(ready.body["spans"][4]["trace_id"], Value::Null, "as the whole");
    assert_eq!(ready.body["spans"][7]["trace_id"], replayed, "in a trace of its own");
    assert_eq!(ready.body["spans"][4]["service"], "builder");
    assert_eq!(ready.body["spans"][4]["duration_ms"], 20.0);
}

#[tokio::test]
async fn a_build_that_nobody_noted_is_shown_by_its_row() {
    let door = Door::open().await;
    let rejected = door.submit("one").await.build();
    door.scan(rejected, 1).await;
    let path = |build| format!("/builds/{build}/trace");
    is(
        &outline(&door.get(&path(rejected)).await),
        &[("queue", 0, "done", 1), ("build", 0, "done", 1), ("scan", 0, "rejected", 1)],
    );

    let ready = door.submit("two").await.build();
    door.make_ready(ready).await;
    let names: Vec<String> = outline(&door.get(&path(ready)).await)
        .into_iter()
        .map(|(name, _, status, _)| format!("{name} {status}"))
        .collect();
    assert_eq!(names, ["queue done", "build done", "scan done", "publish done"]);

    let failed = door.submit("three").await.build();
    door.fail(failed).await;
    is(&outline(&door.get(&path(failed)).await), &[("queue", 0, "failed", 1)]);
}

#[tokio::test]
async fn a_task_is_shown_with_all_its_attempts() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let run = door.request(Method::POST, &format!("/functions/{function}/tasks"));
    let run = run.header("traceparent", TRACEPARENT).json(&json!({}));
    let task = answer(run).await.task();
    let path = format!("/tasks/{task}/trace");
    let queued = door.get(&path).await;
    is(&outline(&queued), &[("queued", 0, "running", 1)]);
    assert_eq!((queued.text("/kind"), queued.text("/trace_id")), ("task", TRACE));

    tasks::claim(&door.pool, task, "first worker").await.unwrap().unwrap();
    is(&outline(&door.get(&path).await), &[("queued", 0, "done", 1), ("ran", 0, "running", 1)]);
    door.complete(task, TaskState::Succeeded, None).await;
    let ended = door.get(&path).await;
    is(
        &outline(&ended),
        &[
            ("queued", 0, "done", 1),
            ("attempt", 0, "lost", 1),
            ("fetched", 0, "done", 2),
            ("started", 0, "done", 2),
            ("ran", 0, "done", 2),
            ("stored", 0, "done", 2),
        ],
    );
    assert_eq!(ended.body["spans"][1]["worker"], "first worker");
    assert_eq!(ended.body["spans"][4]["worker"], "worker");

    let run = door.post(&format!("/functions/{function}/tasks"), json!({})).await;
    door.complete(run.task(), TaskState::Oom, None).await;
    let failed = outline(&door.get(&format!("/tasks/{}/trace", run.task())).await);
    let ran = failed.iter().find(|(name, ..)| name == "ran").unwrap();
    assert_eq!(ran.2, "failed");
}

#[tokio::test]
async fn what_is_no_trace_of_a_callers_is_not_kept() {
    let door = Door::open().await;
    let submit = door.request(Method::POST, "/functions").header("traceparent", "no trace at all");
    let build = answer(submit.json(&crate::door::submission("stats"))).await.build();
    let (traceparent, _) = stages::get(&door.pool, build).await.unwrap().unwrap();
    let traceparent = traceparent.unwrap();
    assert!(!traceparent.contains("no trace"), "{traceparent}");
}

#[tokio::test]
async fn a_waterfall_is_its_owners() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let build = door.get(&format!("/functions/{function}")).await.build();
    let task = door.post(&format!("/functions/{function}/tasks"), json!({})).await.task();
    for path in [format!("/builds/{build}/trace"), format!("/tasks/{task}/trace")] {
        for (token, status) in [(ACME, 200), (OTHER, 404), (OPS, 200)] {
            let request = door.http.get(format!("{}{path}", door.url)).bearer_auth(token);
            assert_eq!(answer(request).await.status, status, "{path} with {token}");
        }
        assert_eq!(answer(door.http.get(format!("{}{path}", door.url))).await.status, 401);
    }
    for path in ["/builds/x/trace", "/tasks/018f4e3e-0000-7000-8000-000000000000/trace"] {
        assert_eq!(door.get(path).await.status, 404, "{path}");
    }
}
