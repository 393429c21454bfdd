//! The cleanup, as far as the console has a part in it: it asks, shows and names; the janitor does it.

use mecapy_proto::v1::CleanupRequested;

use super::browser::Browser;
use crate::door::{Door, OPS};

async fn insert(door: &Door, sql: &'static str) {
    sqlx::query(sql).execute(&door.pool).await.unwrap();
}

#[tokio::test]
async fn storage_is_a_plot_with_its_forecast() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    assert!(ops.see("/console/registry").await.has("Nothing is known of the registry"));
    insert(
        &door,
        "insert into storage_samples (day, bytes)
         select (now() at time zone 'utc')::date - n, 40000000000 - n * 1000000000::bigint
         from generate_series(0, 19) n",
    )
    .await;
    let page = ops.see("/console/registry").await;
    assert!(
        page.has("Storage: 40.00GB of 90.00GB, 44 percent. Full in 50 days (50 to 50)"),
        "{}",
        page.text
    );
    assert!(page.has("class=\"trend\"") && page.has("class=\"limit\""));
}

#[tokio::test]
async fn a_plan_is_asked_for_shown_and_its_names_are_told_before_they_go() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    let asked = ops.post("/console/registry/plan", &[]).await;
    let place = asked.header("location").to_owned();
    let id = place.strip_prefix("/console/registry/runs/").unwrap().to_owned();
    let sent = door.published::<CleanupRequested>("OPS", 1).await;
    assert_eq!((sent[0].0.run_id.as_str(), sent[0].0.dry_run), (id.as_str(), true));
    assert!(id.starts_with("console-plan-"), "{id}");
    let waiting = ops.see(&place).await;
    assert!(
        waiting.has("No janitor has begun it yet") && waiting.has("data-live"),
        "{}",
        waiting.text
    );

    planned(&door, &id, "it is 60 % of all", 1).await;
    let planned = ops.see(&place).await;
    for text in
        ["not used for 91 days", "functions / unused", "Delete what it names", "It stopped itself"]
    {
        assert!(planned.has(text), "{text} in {}", planned.text);
    }
    assert!(!planned.has("data-live"), "it has ended");
    let confirm = ops.see(&format!("{place}/apply")).await;
    for text in [
        "mecapy/functions/user-acme-func-1@0123456789ab",
        "not used for 91 days",
        "name=\"although\"",
        "5MB",
    ] {
        assert!(confirm.has(text), "{text} in {}", confirm.text);
    }
    assert_eq!(confirm.field("run"), id);
    let fields = [("run", id.as_str()), ("although", "yes")];
    let applied = ops.post("/console/registry/apply", &fields).await;
    assert!(
        applied.header("location").starts_with("/console/registry/runs/manual-"),
        "{}",
        applied.text
    );
    let sent = door.published::<CleanupRequested>("OPS", 2).await;
    assert_eq!((sent[1].0.dry_run, sent[1].0.confirm), (false, true));
    let plan: String =
        sqlx::query_scalar("select detail->>'plan' from audit where action = 'apply-cleanup'")
            .fetch_one(&door.pool)
            .await
            .unwrap();
    assert_eq!(plan, id);
}

/// A plan as the janitor leaves it, of so many images.
async fn planned(door: &Door, id: &str, stopped: &str, images: i32) {
    sqlx::query(
        "insert into cleanup_runs (id, kind, state, dry_run, confirmed, reason, planned_images, planned_bytes, stopped, planned_at, ended_at)
         values ($1, 'cleanup', 'done', true, false, 'manual', $3, 5000000, $2, now(), now())",
    )
    .bind(id)
    .bind(stopped)
    .bind(images)
    .execute(&door.pool)
    .await
    .unwrap();
    sqlx::query(
        "insert into cleanup_items (run_id, position, depth, repository, digest, action, tags, policy, rule, reason)
         select $1, n, 0, 'mecapy/functions/user-acme-func-1', 'sha256:0123456789abcdef' || n, 'delete', array['v1-x'],
             case when n % 2 = 0 then 'functions' else 'staging' end, 'unused', 'not used for 91 days'
         from generate_series(0, $2 - 1) n",
    )
    .bind(id)
    .bind(images)
    .execute(&door.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn only_a_plan_of_now_that_was_asked_for_here_is_applied() {
    let door = Door::open().await;
    let ops = Browser::logged_in(&door, OPS).await;
    let apply = async |id: &str| {
        let fields = [("run", id), ("although", "yes")];
        ops.post("/console/registry/apply", &fields).await
    };
    // By policies that nobody here knows, too old, no plan, not at its end, none at all.
    for id in ["plan-1", "console-plan-old", "console-plan-applied", "console-plan-failed"] {
        planned(&door, id, "", 1).await;
    }
    for sql in [
        "update cleanup_runs set planned_at = now() - interval '61 min' where id = 'console-plan-old'",
        "update cleanup_runs set dry_run = false where id = 'console-plan-applied'",
        "update cleanup_runs set state = 'failed' where id = 'console-plan-failed'",
    ] {
        insert(&door, sql).await;
    }
    for id in ["plan-1", "console-plan-old", "console-plan-applied", "console-plan-failed"] {
        let refused = apply(id).await;
        assert_eq!(refused.status, 422, "{id}: {}", refused.text);
        let place = format!("/console/registry/runs/{id}");
        assert!(!ops.see(&place).await.has("Delete what it names"), "{id}");
        let page = ops.see(&format!("{place}/apply")).await;
        assert!(page.has("It can't be applied") && !page.has("Delete it"), "{id}: {}", page.text);
    }
    assert_eq!(apply("none").await.status, 404);
    assert_eq!(apply("").await.status, 404);

    // The first that is sent. What the plan has not said is not confirmed either.
    planned(&door, "console-plan-1", "", 1).await;
    assert_eq!(apply("console-plan-1").await.status, 303);
    let sent = door.published::<CleanupRequested>("OPS", 1).await;
    assert_eq!((sent[0].0.dry_run, sent[0].0.confirm), (false, false));
}

/// Goes through all pages: the digests that they name, in order.
async fn all(ops: &Browser, path: &str, pages: usize) -> Vec<String> {
    let (mut found, mut next, mut seen) = (Vec::new(), Some(path.to_owned()), 0);
    while let Some(path) = next {
        let page = ops.see(&path).await;
        assert!(page.text.len() < 200_000, "{path} has {} bytes", page.text.len());
        let digests = page.text.split("0123456789ab</code> ").skip(1);
        found.extend(digests.map(|rest| rest.split('<').next().unwrap().to_owned()));
        next = page.text.contains("rel=\"next\"").then(|| {
            let (_, rest) = page.text.split_once("rel=\"next\" href=\"").unwrap();
            rest.split_once('"').unwrap().0.replace("&amp;", "&")
        });
        seen += 1;
    }
    assert_eq!(seen, pages, "{path}");
    found
}

#[tokio::test]
async fn a_large_plan_is_named_page_by_page_and_counted_on_each() {
    let door = Door::open().await;
    planned(&door, "console-plan-1", "", 501).await;
    let ops = Browser::logged_in(&door, OPS).await;
    let run = "/console/registry/runs/console-plan-1";
    let page = ops.see(run).await;
    assert!(page.has("200 of 501."), "{}", page.text);
    assert_eq!(page.text.matches("not used for 91 days").count(), 200);
    let confirm = ops.see(&format!("{run}/apply")).await;
    for text in ["501 things", "functions: 251", "staging: 250", "All 501 by name"] {
        assert!(confirm.has(text), "{text}");
    }
    // What is named on the last page is confirmed with the rest.
    let mut names = Vec::new();
    let mut next = Some(format!("{run}/apply"));
    while let Some(path) = next {
        let page = ops.see(&path).await;
        assert!(page.has("501 things") && page.field("run") == "console-plan-1");
        names.push(page.text.matches("not used for 91 days").count());
        next = page.links(&format!("{run}/apply?page_token=")).pop();
    }
    assert_eq!(names, [200, 200, 101]);
    assert_eq!(ops.get(&format!("{run}?page_token=x")).await.status, 422);
}

#[tokio::test]
async fn what_could_be_put_back_is_named_page_by_page() {
    let door = Door::open().await;
    insert(
        &door,
        "insert into cleanup_runs (id, kind, state, dry_run, confirmed, reason, planned_at, ended_at)
         select id, 'cleanup', 'done', false, false, 'manual', now(), now() from unnest(array['a', 'manual-1', 'z']) id",
    )
    .await;
    // Every second was deleted; others are of other runs, or only looked at.
    insert(
        &door,
        "insert into cleanup_items (run_id, position, depth, repository, digest, action, tags, policy, rule, reason, state)
         select r, n, n % 3, 'mecapy/functions/f', 'sha256:0123456789ab', 'delete', array['v' || lpad(n::text, 4, '0')],
             case when n % 4 = 0 then 'functions' else 'staging' end, 'unused', 'not used',
             case when n % 2 = 0 then 'done' else 'skipped' end
         from generate_series(0, 1001) n, unnest(array['a', 'manual-1', 'z']) r",
    )
    .await;
    let ops = Browser::logged_in(&door, OPS).await;
    let path = "/console/registry/runs/manual-1/undo";
    let first = ops.see(path).await;
    for text in ["501 things", "functions: 251", "staging: 250"] {
        assert!(first.has(text), "{text} in {}", first.text);
    }
    let tags = all(&ops, path, 3).await;
    let expected: Vec<String> =
        (0..=1000).step_by(2).map(|n| format!("v{n:04}: not used")).collect();
    assert_eq!(tags, expected);
}

#[tokio::test]
async fn what_a_run_deleted_is_named_before_it_is_put_back() {
    let door = Door::open().await;
    insert(
        &door,
        "insert into cleanup_runs (id, kind, state, dry_run, confirmed, reason, planned_at, ended_at)
         values ('manual-1', 'cleanup', 'done', false, false, 'manual', now(), now())",
    )
    .await;
    insert(
        &door,
        "insert into cleanup_items (run_id, position, depth, repository, digest, action, tags, policy, rule, reason, state)
         values ('manual-1', 0, 0, 'mecapy/functions/f', 'sha256:0123456789abcdef', 'delete', array['v1-x'],
             'functions', 'unused', 'not used', 'done')",
    )
    .await;
    let ops = Browser::logged_in(&door, OPS).await;
    assert!(ops.see("/console/registry/runs/manual-1").await.has("Put back what it deleted"));
    let page = ops.see("/console/registry/runs/manual-1/undo").await;
    assert!(page.has("mecapy/functions/f@0123456789ab") && page.has("1 things"), "{}", page.text);
    let undone = ops.post("/console/registry/undo", &[("run", "manual-1")]).await;
    assert!(
        undone.header("location").starts_with("/console/registry/runs/undo-"),
        "{}",
        undone.text
    );
    let sent = door.published::<CleanupRequested>("OPS", 1).await;
    assert_eq!(sent[0].0.undo, "manual-1");
    assert_eq!(ops.post("/console/registry/undo", &[("run", "none")]).await.status, 404);
    let audit: Vec<String> =
        sqlx::query_scalar("select action from audit where action not like 'log-%' order by id")
            .fetch_all(&door.pool)
            .await
            .unwrap();
    assert_eq!(audit, ["undo-cleanup"]);
}
