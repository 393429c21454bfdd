//! What may be changed, by whom, and what is noted of it.

use mecapy_gateway::CONSOLE_ACTIONS;
use serde_json::json;

use super::browser::Browser;
use crate::door::{ACME, Door, OPS, OTHER, VIEWER};

/// Addresses of all actions, about things of acme's that can be changed.
async fn actions(door: &Door) -> (Vec<String>, i64) {
    let function = door.ready_function("stats").await;
    let delivery = crate::console::webhooks::delivery(door, "https://hooks.example.com/x").await;
    let webhook: uuid::Uuid =
        sqlx::query_scalar("select webhook_id from webhook_deliveries where id = $1")
            .bind(delivery)
            .fetch_one(&door.pool)
            .await
            .unwrap();
    let build = door.submit("another").await.build();
    let task = door.post(&format!("/functions/{function}/tasks"), json!({})).await.task();
    let paths = CONSOLE_ACTIONS.iter().map(|path| {
        path.replace("{function_id}", &function.to_string())
            .replace("{build_id}", &build.to_string())
            .replace("{task_id}", &task.to_string())
            .replace("{delivery_id}", &delivery.to_string())
            .replace("{webhook_id}", &webhook.to_string())
    });
    (paths.collect(), function)
}

async fn noted(door: &Door) -> Vec<(String, String, String)> {
    sqlx::query_as(
        "select owner, action, outcome from audit where action not like 'log-%' and action <> 'create-webhook' order by id",
    )
    .fetch_all(&door.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn nothing_changes_without_the_sessions_own_secret() {
    let door = Door::open().await;
    let (paths, function) = actions(&door).await;
    let (browser, other) =
        (Browser::logged_in(&door, OPS).await, Browser::logged_in(&door, OPS).await);
    let (own, foreign) = (browser.csrf().await, other.csrf().await);
    assert_ne!(own, foreign);
    for path in &paths {
        for fields in [&[][..], &[("csrf", "")], &[("csrf", foreign.as_str())]] {
            let refused = browser.send(path, fields, &[]).await;
            assert_eq!(refused.status, 403, "{path} {fields:?}");
            assert!(refused.has("not of your session"), "{}", refused.text);
        }
        let fields = [("csrf", own.as_str())];
        let refused = browser.send(path, &fields, &[("sec-fetch-site", "cross-site")]).await;
        assert_eq!(refused.status, 403, "{path}");
        assert_eq!(Browser::new(&door).send(path, &fields, &[]).await.status, 303, "{path}");
    }
    assert_eq!(noted(&door).await, []);
    browser.see(&format!("/console/functions/{function}")).await;
}

#[tokio::test]
async fn a_viewer_looks_and_changes_nothing() {
    let door = Door::open().await;
    let (paths, function) = actions(&door).await;
    let browser = Browser::logged_in(&door, VIEWER).await;
    for path in paths.iter().filter(|path| !path.ends_with("logout")) {
        let refused = browser.post(path, &[("id", "1"), ("run", "x")]).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.text);
    }
    assert_eq!(noted(&door).await, []);
    for path in [
        "/console",
        "/console/functions",
        "/console/builds",
        "/console/tasks",
        "/console/workers",
        "/console/bases",
        "/console/bases/stale",
        "/console/mirror",
        "/console/registry",
        "/console/dead-letters",
        "/console/advisories",
    ] {
        let page = browser.see(path).await;
        assert!(!page.has("method=\"post\"") || !page.has("Make a plan"), "{path}");
    }
    let page = browser.see(&format!("/console/functions/{function}")).await;
    assert!(!page.has("Delete this function") && !page.has("Build its newest"));
    assert_eq!(browser.get("/console/audit").await.status, 403);
}

#[tokio::test]
async fn an_owner_sees_and_changes_what_is_their_own() {
    let door = Door::open().await;
    let (paths, function) = actions(&door).await;
    let other = Browser::logged_in(&door, OTHER).await;
    for path in &paths[1..7] {
        assert_eq!(other.post(path, &[]).await.status, 404, "{path}");
    }
    for path in &paths[7..] {
        assert_eq!(other.post(path, &[("id", "1"), ("run", "x")]).await.status, 403, "{path}");
    }
    for path in ["workers", "bases", "mirror", "registry", "dead-letters", "advisories", "audit"] {
        assert_eq!(other.get(&format!("/console/{path}")).await.status, 403, "{path}");
        assert!(!other.see("/console").await.has(&format!("href=\"/console/{path}\"")));
    }
    assert_eq!(noted(&door).await, []);

    let own = Browser::logged_in(&door, ACME).await;
    for (path, lead) in [
        (&paths[2], format!("{}?notice=cancelled", paths[2].trim_end_matches("/cancel"))),
        (&paths[3], format!("{}?notice=cancelled", paths[3].trim_end_matches("/cancel"))),
        (&paths[4], format!("{}?notice=resent", paths[4].trim_end_matches("/resend"))),
        (&paths[5], format!("{}?notice=enabled", paths[5].trim_end_matches("/enable"))),
        (&paths[1], "/console/functions?notice=deleted".to_owned()),
    ] {
        let page = own.post(path, &[]).await;
        assert_eq!((page.status, page.header("location")), (303, lead.as_str()), "{}", page.text);
        let said = match lead.rsplit_once('=').unwrap().1 {
            "cancelled" => "Its end is asked for.",
            "resent" => "It is sent again",
            "enabled" => "It is told again",
            _ => "The function is deleted.",
        };
        assert!(own.see(&lead).await.has(said), "{lead}");
    }
    assert_eq!(own.get(&format!("/console/functions/{function}")).await.status, 404);
    let what = noted(&door).await;
    let expected =
        ["cancel-build", "cancel-task", "resend-delivery", "enable-webhook", "delete-function"];
    let expected = expected.map(|action| ("acme".to_owned(), action.to_owned(), "done".to_owned()));
    assert_eq!(what, expected);
}

#[tokio::test]
async fn every_action_is_on_a_page_for_operators_whatever_door_it_came_by() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let task = door.post(&format!("/functions/{function}/tasks"), json!({})).await.task();
    door.post(&format!("/tasks/{task}/cancel"), json!({})).await;
    let ops = Browser::logged_in(&door, OPS).await;
    let page = ops.see("/console/audit").await;
    assert!(page.has("cancel-task") && page.has(&task.to_string()), "{}", page.text);
    assert!(
        page.has("log-in") && page.has("ops <span class=\"quiet\">operator</span>"),
        "{}",
        page.text
    );
    // Newest first.
    assert!(page.text.find("log-in") < page.text.find("cancel-task"));
}
