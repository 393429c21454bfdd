//! Lists go on by key: nothing is seen twice, and nothing is missed.

use std::collections::BTreeSet;

use serde_json::json;

use super::browser::Browser;
use crate::door::{ACME, Door, OPS, OTHER};

/// Functions of an owner, a ready build and tasks of each, as rows.
async fn fill(door: &Door, owner: &str, functions: i64, tasks: i64) {
    sqlx::query(
        "with f as (
             insert into functions (owner, name, docker_image)
             select $1, 'fn-' || $1 || '-' || n, 'image' from generate_series(1, $2) n returning id
         ), v as (
             insert into versions (function_id, version, python_version, base_variant, requirements, inputs_sha256)
             select id, 1, '3.11', 'slim', '', '' from f
         ), b as (
             insert into builds (id, function_id, version, state, requested_at)
             select gen_random_uuid(), id, 1, 'ready', now() - id * interval '1 second' from f
         )
         insert into tasks (id, function_id, state, cache, created_at)
         select gen_random_uuid(), f.id, case n % 10 when 0 then 'failed' else 'succeeded' end,
             case n % 20 when 0 then 'FAILOVER' else 'HIT' end,
             -- Several of one moment: the id tells them apart.
             now() - (n / 3) * interval '1 second'
         from f, generate_series(1, $3) n",
    )
    .bind(owner)
    .bind(functions)
    .bind(tasks)
    .execute(&door.pool)
    .await
    .unwrap();
}

/// Goes through all pages of a list: the links to its entries, in order.
async fn all(browser: &Browser, path: &str, entries: &str, pages: usize) -> Vec<String> {
    let (mut found, mut next) = (Vec::new(), Some(path.to_owned()));
    let mut seen = 0;
    while let Some(path) = next {
        let page = browser.see(&path).await;
        seen += 1;
        found.extend(page.links(entries));
        next = page.text.contains("rel=\"next\"").then(|| {
            let (_, rest) = page.text.split_once("rel=\"next\" href=\"").unwrap();
            rest.split_once('"').unwrap().0.replace("&amp;", "&")
        });
    }
    assert_eq!(seen, pages, "{path}");
    found
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let door = Door::open().await;
    fill(&door, "acme", 120, 1).await;
    fill(&door, "other", 7, 1).await;
    let acme = Browser::logged_in(&door, ACME).await;
    let functions = all(&acme, "/console/functions", "/console/functions/", 3).await;
    assert_eq!(functions.len(), 120);
    assert_eq!(functions.iter().collect::<BTreeSet<_>>().len(), 120);
    let numbers: Vec<i64> =
        functions.iter().map(|link| link.rsplit('/').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, two| one > two), "the newest first");
    assert_eq!(all(&acme, "/console/builds", "/console/builds/", 3).await.len(), 120);
    assert_eq!(all(&acme, "/console/tasks", "/console/tasks/", 3).await.len(), 120);

    let other = Browser::logged_in(&door, OTHER).await;
    assert_eq!(all(&other, "/console/functions", "/console/functions/", 1).await.len(), 7);
    assert_eq!(all(&other, "/console/builds", "/console/builds/", 1).await.len(), 7);
    assert_eq!(all(&other, "/console/tasks", "/console/tasks/", 1).await.len(), 7);
    let ops = Browser::logged_in(&door, OPS).await;
    assert_eq!(all(&ops, "/console/functions", "/console/functions/", 3).await.len(), 127);
    assert_eq!(all(&ops, "/console/tasks", "/console/tasks/", 3).await.len(), 127);
}

#[tokio::test]
async fn what_comes_meanwhile_moves_no_page() {
    let door = Door::open().await;
    fill(&door, "acme", 1, 120).await;
    let acme = Browser::logged_in(&door, ACME).await;
    let first = acme.see("/console/tasks").await;
    let (_, rest) = first.text.split_once("rel=\"next\" href=\"").unwrap();
    let next = rest.split_once('"').unwrap().0.replace("&amp;", "&");
    let before = acme.see(&next).await.links("/console/tasks/");
    sqlx::query(
        "insert into tasks (id, function_id) select gen_random_uuid(), id from functions, generate_series(1, 10)",
    )
    .execute(&door.pool)
    .await
    .unwrap();
    assert_eq!(acme.see(&next).await.links("/console/tasks/"), before);
    let seen: BTreeSet<String> = first.links("/console/tasks/").into_iter().collect();
    assert!(before.iter().all(|link| !seen.contains(link)));
}

#[tokio::test]
async fn filters_narrow_a_list_and_stay_from_page_to_page() {
    let door = Door::open().await;
    fill(&door, "acme", 2, 600).await;
    // More functions than are asked one by one.
    fill(&door, "other", 501, 1).await;
    for token in [ACME, OPS] {
        let browser = Browser::logged_in(&door, token).await;
        let path = "/console/tasks?state=failed";
        assert_eq!(all(&browser, path, "/console/tasks/", 3).await.len(), 120, "{token}");
        let path = "/console/tasks?cache=FAILOVER&state=failed";
        assert_eq!(all(&browser, path, "/console/tasks/", 2).await.len(), 60, "{token}");
        let path = "/console/functions?name=fn-acme-";
        assert_eq!(all(&browser, path, "/console/functions/", 1).await.len(), 2, "{token}");
        let path = "/console/functions?name=fn_acme";
        assert_eq!(all(&browser, path, "/console/functions/", 1).await.len(), 0, "no pattern");
        let path = "/console/builds?state=failed";
        assert_eq!(all(&browser, path, "/console/builds/", 1).await.len(), 0, "{token}");
    }
    let other = Browser::logged_in(&door, OTHER).await;
    assert_eq!(all(&other, "/console/tasks", "/console/tasks/", 11).await.len(), 501);
    assert_eq!(all(&other, "/console/builds?state=ready", "/console/builds/", 11).await.len(), 501);
    assert_eq!(all(&other, "/console/tasks?state=failed", "/console/tasks/", 1).await.len(), 0);

    let one: i64 =
        sqlx::query_scalar("select min(id) from functions").fetch_one(&door.pool).await.unwrap();
    let ops = Browser::logged_in(&door, OPS).await;
    let path = format!("/console/tasks?function={one}&state=failed");
    assert_eq!(all(&ops, &path, "/console/tasks/", 2).await.len(), 60);
    // Nobody's function is shown by its number either.
    let path = format!("/console/tasks?function={one}");
    assert_eq!(all(&other, &path, "/console/tasks/", 1).await.len(), 0);
    assert_eq!(ops.get("/console/tasks?page_token=x").await.status, 422);
    assert_eq!(ops.get("/console/tasks?function=x").await.status, 404);
}

#[tokio::test]
async fn what_belongs_to_a_deleted_function_is_in_no_list() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    door.post(&format!("/functions/{function}/tasks"), json!({})).await;
    sqlx::query("update functions set deleted_at = now()").execute(&door.pool).await.unwrap();
    for token in [ACME, OPS] {
        let browser = Browser::logged_in(&door, token).await;
        for list in ["functions", "builds", "tasks"] {
            let links =
                browser.see(&format!("/console/{list}")).await.links(&format!("/console/{list}/"));
            assert_eq!(links, Vec::<String>::new(), "{token} {list}");
        }
    }
}
