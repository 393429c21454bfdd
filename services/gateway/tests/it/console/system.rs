//! What operators see of the copy on the fallback and of the advisories, and of a build what became of its image.

use super::browser::Browser;
use crate::door::{ACME, Door, OPS};

async fn insert(door: &Door, sql: &'static str) {
    sqlx::query(sql).execute(&door.pool).await.unwrap();
}

#[tokio::test]
async fn the_mirror_shows_how_old_the_copy_is_its_runs_and_the_last_drill() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    let empty = ops.see("/console/mirror").await;
    for text in ["there was never one", "all have one", "never tried out", "There was no run yet."]
    {
        assert!(empty.has(text), "{text} in {}", empty.text);
    }
    // One that left something out counts for nothing; the one before it was complete.
    for sql in [
        "insert into mirror_runs (id, reason, by_usage, dry_run, verify_percent, state, open_images, requested_at, ended_at)
         values ('mirror-1', 'schedule', true, false, 0, 'done', 0, now() - interval '3 h 1 min', now() - interval '3 h'),
                ('mirror-2', 'manual', true, false, 0, 'done', 0, now() - interval '2 h', now() - interval '1 h')",
        "insert into mirror_images (run_id, repository, digest, tags, tasks, outcome, error_code, error_message, bytes_sent,
             verified, duration_ms, ended_at)
         values ('mirror-1', 'mecapy/functions/f', 'sha256:0123456789abcdef', array['v1-x', 'latest'], 7, 'mirrored',
                 null, null, 5000000, true, 1500, now() - interval '3 h'),
                ('mirror-2', 'mecapy/functions/f', 'sha256:0123456789abcdef', array['v1-x'], 7, 'unchanged',
                 null, null, 0, false, 3, now()),
                ('mirror-2', 'mecapy/functions/g', 'sha256:fedcba9876543210', array['v2-y'], 2, 'failed',
                 'registry-unauthorized', 'it refuses our <b>credentials</b>', 0, false, 9, now())",
        "insert into mirror_drills (fallback, recovered, duration_ms, images) values ('fallback.test', false, 61000,
             '[{\"image\": \"mecapy/functions/f\", \"pull_ms\": 1200, \"smoke_test_ms\": 800, \"problem\": null},
               {\"image\": \"mecapy/functions/g\", \"problem\": \"it is <i>not</i> there\"}]')",
    ] {
        insert(&door, sql).await;
    }
    let page = ops.see("/console/mirror").await;
    for text in [
        "<dt>Since the last complete run</dt><dd>3 h",
        "Not every image that was tried works, from fallback.test alone, in 1 min 1 s",
        "<td class=\"number\">1.2 s</td><td class=\"number\">800 ms</td><td>works</td>",
        "it is &lt;i&gt;not&lt;/i&gt; there",
        "<td class=\"number\">1 / 0</td><td class=\"number\">0</td><td class=\"number\">5MB</td>",
        "<td class=\"number\">0 / 1</td><td class=\"number\">1</td>",
    ] {
        assert!(page.has(text), "{text} in {}", page.text);
    }
    // The newest first.
    let runs = page.links("/console/mirror/");
    assert_eq!(runs, ["/console/mirror/mirror-2", "/console/mirror/mirror-1"]);
    let run = ops.see(&runs[0]).await;
    for text in [
        "2: 0 copied, 1 there already, 1 failed",
        ">unchanged<",
        "registry-unauthorized: it refuses our &lt;b&gt;credentials",
    ] {
        assert!(run.has(text), "{text} in {}", run.text);
    }
    let run = ops.see(&runs[1]).await;
    for text in ["v1-x latest", ">mirrored</span> verified", "5MB", "1.5 s"] {
        assert!(run.has(text), "{text} in {}", run.text);
    }
    assert_eq!(ops.get("/console/mirror/none").await.status, 404);
}

#[tokio::test]
async fn an_image_that_is_used_and_was_not_copied_is_told_of() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    sqlx::query(
        "insert into image_usage (function_id, digest, day, tasks)
         select f.id, b.digest, (now() at time zone 'utc')::date, 3
         from functions f join builds b on b.id = f.current_build where f.id = $1",
    )
    .bind(function)
    .execute(&door.pool)
    .await
    .unwrap();
    insert(&door, "update builds set ended_at = now() - interval '2 h 5 min'").await;
    let ops = Browser::logged_in(&door, OPS).await;
    assert!(ops.see("/console/mirror").await.has("published 2 h 5 min ago"));
}

#[tokio::test]
async fn a_build_shows_its_copy_on_the_fallback() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let build = door.get(&format!("/functions/{function}")).await.build();
    for sql in [
        "insert into mirror_runs (id, reason, by_usage, dry_run, verify_percent, state, open_images)
         values ('dry', 'manual', false, true, 0, 'done', 0), ('real', 'publish', false, false, 0, 'done', 0)",
        "insert into mirror_images (run_id, repository, digest, tags, outcome, ended_at)
         select 'dry', 'mecapy/functions/f', digest, array['v1-x'], 'mirrored', now() from builds",
    ] {
        insert(&door, sql).await;
    }
    let acme = Browser::logged_in(&door, ACME).await;
    let page = acme.see(&format!("/console/builds/{build}")).await;
    assert!(page.has("no copy is on record"), "{}", page.text);
    insert(
        &door,
        "insert into mirror_images (run_id, repository, digest, tags, outcome, ended_at)
         select 'real', 'mecapy/functions/f', digest, array['v1-x'], 'mirrored', '2026-01-02 03:04:05Z' from builds",
    )
    .await;
    let page = acme.see(&format!("/console/builds/{build}")).await;
    let (_, copy) = page.text.split_once("On the fallback</dt>").unwrap();
    let (copy, _) = copy.split_once("</dd>").unwrap();
    for text in ["<code>sha256:", ">mirrored<", "2026-01-02 03:04:05 UTC"] {
        assert!(copy.contains(text), "{text} in {copy}");
    }
}

#[tokio::test]
async fn advisories_show_their_age_what_changed_and_who_is_hit() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    let empty = ops.see("/console/advisories").await;
    for text in ["there was none yet", "No live function is hit.", "There was none yet."] {
        assert!(empty.has(text), "{text} in {}", empty.text);
    }
    let hit = door.ready_function("hit").await;
    let (gone, _fine) = (door.ready_function("gone").await, door.ready_function("fine").await);
    for sql in [
        "insert into rematches (key, database_version, newest, images, unindexed, revoked, restored, duration_ms, ended_at)
         values ('a', 'database-a', now() - interval '2 d 3 h', 40, 2, 3, 1, 250, now()),
                ('b', 'database-b', now() - interval '9 d', 39, 0, 0, 0, 240, now() - interval '7 d')",
        "update scans s set revoked_at = '2026-01-02 03:04:05Z', refused = true, critical = 2, database_partial = true
         from builds b join functions f on f.current_build = b.id where b.id = s.build_id and f.name in ('hit', 'gone')",
        "update functions set deleted_at = now() where name = 'gone'",
    ] {
        insert(&door, sql).await;
    }
    let page = ops.see("/console/advisories").await;
    for text in [
        "UTC</time>, 2 d 3 h ago",
        "database-a",
        "<td class=\"number\">40 (2 unknown)</td><td class=\"number\">3</td><td class=\"number\">1</td>",
        "osv, database 1",
        ">refused<",
        "2026-01-02 03:04:05 UTC",
        "<td class=\"number\">2 / 1</td>",
        "numpy CVE-2023-1234",
    ] {
        assert!(page.has(text), "{text} in {}", page.text);
    }
    assert!(page.text.find("database-a") < page.text.find("database-b"), "the newest first");
    assert_eq!(page.links("/console/functions/"), [format!("/console/functions/{hit}")]);
    assert_ne!(hit, gone);
}
