//! What users and programs wrote is text, whatever it is.

use mecapy_objects::Key;
use mecapy_store::TaskState;
use serde_json::json;

use super::browser::{Browser, Page};
use crate::door::{ACME, Door, OPS};

/// Markup, a way out of an attribute, colours and a title of a terminal, a turn of direction, a NUL's picture.
const HOSTILE: &str =
    "<script>alert(1)</script>\"' onload=x \u{1b}[31mred\u{1b}[0m\u{1b}]0;title\u{7}\u{202e}gnp";
/// As it must be shown.
const SHOWN: &str = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;' onload=x red⟨U+202E⟩gnp";

fn is_clean(page: &Page, path: &str) {
    for bad in ["<script>alert", "\"' onload", "\u{1b}", "\u{7}", "\u{202e}", "\u{9b}"] {
        assert!(!page.has(bad), "{bad:?} in {path}");
    }
}

#[tokio::test]
async fn hostile_text_is_shown_as_text_on_every_page() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let (good, bad) = (door.submit("stats").await.build(), door.submit("stats").await.build());
    let task = door.post(&format!("/functions/{function}/tasks"), json!({})).await.task();
    door.scan(good, 1).await;
    door.fail(bad).await;
    door.complete(task, TaskState::Failed, None).await;
    for (sql, count) in [
        ("update functions set name = $1, owner = $1, docker_image = $1", 1),
        (
            "update builds set error_code = 'x<b>', error_message = $1, error_log = array[$1], staging_image = $1, docker_image = $1, dependency_image = $1, digest = $1",
            3,
        ),
        ("update versions set requirements = $1, python_version = $1, base_variant = $1", 3),
        (
            "update tasks set error_message = $1, error_log = array[$1], worker = $1, image = $1, digest = $1, error_code = $1",
            1,
        ),
        (
            "update scans set engine = $1, database_version = $1, findings = jsonb_build_array(jsonb_build_object('id', $1::text, 'package', $1::text, 'installedVersion', $1::text, 'fixedVersion', $1::text, 'severity', $1::text, 'summary', $1::text))",
            2,
        ),
        ("update scans set revoked_at = now()", 2),
        (
            "insert into audit (owner, role, action, target, detail) values ($1, $1, $1, $1, jsonb_build_object('x', $1::text))",
            1,
        ),
        (
            "insert into mirror_runs (id, reason, by_usage, dry_run, verify_percent, open_images) values ($1, $1, true, false, 0, 1)",
            1,
        ),
        (
            "insert into mirror_images (run_id, repository, digest, tags, outcome, error_code, error_message) values ($1, $1, $1, array[$1], 'failed', $1, $1)",
            1,
        ),
        (
            "insert into mirror_drills (fallback, recovered, duration_ms, images) values ($1, false, 1, jsonb_build_array(jsonb_build_object('image', $1::text, 'problem', $1::text)))",
            1,
        ),
        (
            "insert into cleanup_runs (id, kind, state, dry_run, confirmed, reason, target, stopped, problem, planned_at) values ($1, 'cleanup', 'done', true, false, $1, $1, $1, $1, now())",
            1,
        ),
        (
            "insert into cleanup_items (run_id, position, depth, repository, digest, action, tags, policy, rule, reason, outcome) values ($1, 0, 0, $1, $1, 'delete', array[$1], $1, $1, $1, $1)",
            1,
        ),
        (
            "insert into rematches (key, database_version, newest, images, unindexed, revoked, restored, duration_ms) values ($1, $1, now(), 1, 0, 0, 0, 1)",
            1,
        ),
    ] {
        let mut query = sqlx::query(sql);
        if sql.contains("$1") {
            query = query.bind(HOSTILE);
        }
        let done = query.execute(&door.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(done.rows_affected() >= count, "{sql}");
    }
    for (key, text) in [
        (Key::dockerfile(bad), HOSTILE),
        (Key::lock(bad), HOSTILE),
        (Key::build_log(bad), HOSTILE),
        (Key::task_stdout(task, 1), HOSTILE),
    ] {
        door.objects.put(&key, text.into()).await.unwrap();
    }
    sqlx::query("update builds set started_at = now()").execute(&door.pool).await.unwrap();

    let ops = Browser::logged_in(&door, OPS).await;
    let run: String = url::form_urlencoded::byte_serialize(HOSTILE.as_bytes())
        .collect::<String>()
        .replace('+', "%20");
    for path in [
        "/console/functions".to_owned(),
        format!("/console/functions/{function}"),
        format!("/console/functions/{function}/delete"),
        "/console/builds".into(),
        format!("/console/builds/{good}"),
        format!("/console/builds/{bad}"),
        "/console/tasks".into(),
        format!("/console/tasks/{task}"),
        "/console/mirror".into(),
        format!("/console/mirror/{run}"),
        "/console/registry".into(),
        format!("/console/registry/runs/{run}"),
        format!("/console/registry/runs/{run}/apply"),
        "/console/advisories".into(),
        "/console/audit".into(),
    ] {
        let page = ops.see(&path).await;
        assert!(page.has(SHOWN), "{path}: {}", page.text);
        is_clean(&page, &path);
    }
    // What an address says is text too.
    let typed: String = url::form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    for path in [
        format!("/console/functions?name={typed}"),
        format!("/console/builds?state={typed}"),
        format!("/console/functions/{run}"),
        format!("/console/nothing/{run}"),
        format!("/console/login?next=/console/{typed}"),
    ] {
        is_clean(&ops.get(&path).await, &path);
    }
    // As a file it is as it was written, and no browser takes it for a page.
    let raw = ops.see(&format!("/console/builds/{bad}/log")).await;
    assert_eq!(raw.text, HOSTILE);
    assert_eq!(raw.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(raw.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn a_line_of_ten_megabytes_makes_a_small_page() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let (build, task) = (
        door.submit("stats").await.build(),
        door.post(&format!("/functions/{function}/tasks"), json!({})).await.task(),
    );
    door.fail(build).await;
    door.complete(task, TaskState::Failed, None).await;
    let line = bytes::Bytes::from("<b>".repeat(10_000_000 / 3));
    door.objects.put(&Key::build_log(build), line.clone()).await.unwrap();
    door.objects.put(&Key::task_stdout(task, 1), line.clone()).await.unwrap();
    let huge = "<i>".repeat(300_000);
    for sql in [
        "update builds set started_at = now(), error_message = $1, error_log = array[$1]",
        "update tasks set error_message = $1, error_log = array[$1]",
        "update versions set requirements = $1",
    ] {
        sqlx::query(sql).bind(&huge).execute(&door.pool).await.unwrap();
    }
    let acme = Browser::logged_in(&door, ACME).await;
    for path in [format!("/console/builds/{build}"), format!("/console/tasks/{task}")] {
        let page = acme.see_all(&path, &["The last part; ", "bytes)"]).await;
        assert!(page.text.len() < 200_000, "{path}: {} bytes", page.text.len());
        assert!(!page.has("<b><b>") && !page.has("<i><i>"), "{path}");
        let whole = acme.see(&format!("{path}/log")).await;
        assert_eq!(whole.text.len(), line.len());
    }
}
