//! The console in a real browser, over the whole system.

use mecapy_bus::dead_letters;
use mecapy_e2e::{Chromium, Service, System};
use mecapy_testkit::{Infra, Server, eventually};
use reqwest::Method;
use serde_json::json;

use crate::{DOUBLE, PATIENCE};

/// Logged in, at a page.
async fn log_in(chromium: &Chromium, system: &System, token: &str, path: &str) {
    chromium.go(&format!("{}{path}", system.api.url)).await.unwrap();
    chromium.write("#token", token).await.unwrap();
    chromium.click("form.login button").await.unwrap();
    eventually("the log-in leads to the page", PATIENCE, async || {
        let address = chromium.address().await.ok()?;
        address.ends_with(path).then_some(())
    })
    .await;
}

async fn see(chromium: &Chromium, system: &System, path: &str) {
    chromium.go(&format!("{}{path}", system.api.url)).await.unwrap();
}

/// Waits until a part with something from S3 says this. Where S3 takes longer than a page waits, the gateway leaves it
/// out, and says so in its log: only then the page is loaded again.
async fn until_fetched(chromium: &Chromium, system: &System, page: &str, css: &str, says: &str) {
    let mut known = 0;
    eventually(&format!("{css} says {says:?}"), PATIENCE, async || {
        if chromium.text(css).await.is_ok_and(|text| text.contains(says)) {
            return Some(());
        }
        let complaints = system.log(Service::Gateway).matches("S3 is slow").count();
        if complaints > known {
            known = complaints;
            see(chromium, system, page).await;
            stay(chromium).await;
        }
        None
    })
    .await;
}

/// A page that is loaded again has forgotten it.
async fn stay(chromium: &Chromium) {
    chromium.script("window.stayed = true").await.unwrap();
}

async fn has_stayed(chromium: &Chromium) {
    assert_eq!(chromium.script("return window.stayed").await.unwrap(), true);
}

/// A picture of the page at the widths that are kept in docs/screenshots, where they are asked for.
async fn keep(chromium: &Chromium, name: &str) {
    use base64::Engine as _;
    let Ok(folder) = std::env::var("MECAPY_SCREENSHOTS") else { return };
    for (width, scheme) in [(1280, "light"), (390, "dark")] {
        chromium.width(width).await.unwrap();
        chromium.scheme(scheme).await.unwrap();
        let picture = chromium.picture(1_400).await.unwrap();
        let picture = base64::engine::general_purpose::STANDARD.decode(picture).unwrap();
        std::fs::write(format!("{folder}/{name}-{width}.png"), picture).unwrap();
    }
    chromium.width(1280).await.unwrap();
    chromium.scheme("light").await.unwrap();
}

/// No page is wider than the screen: what is wide scrolls by itself. And axe-core has nothing against it, in light and
/// in dark.
async fn fits(chromium: &Chromium) {
    let address = chromium.address().await.unwrap();
    for scheme in ["dark", "light"] {
        chromium.scheme(scheme).await.unwrap();
        let problems = chromium.accessibility_problems().await.unwrap().unwrap_or_default();
        assert!(problems.is_empty(), "{address} ({scheme}): {problems:#?}");
    }
    chromium.width(390).await.unwrap();
    let wide = chromium
        .script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth",
        )
        .await
        .unwrap();
    assert_eq!(wide, 0, "{address}");
    // The menu scrolls there: once it is loaded so, where one is can be seen.
    chromium.go(&address).await.unwrap();
    let is_seen = "
        const here = document.querySelector('.top nav [aria-current]').getBoundingClientRect();
        return here.left >= 0 && here.right <= innerWidth";
    assert_eq!(chromium.script(is_seen).await.unwrap(), true, "{address}");
    chromium.width(1280).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_and_tasks_are_watched_to_their_end_without_a_reload() {
    let Some(chromium) = Chromium::start().await.unwrap() else { return };
    let system = System::start(Infra::shared().await).await.unwrap();
    let function = system.api.submit("double", DOUBLE, "").await.unwrap();
    let build = format!("/console/builds/{}", function["build_id"].as_str().unwrap());
    log_in(&chromium, &system, &system.api.token, &build).await;
    stay(&chromium).await;
    chromium.until("#summary", "ready", PATIENCE).await;
    let said = chromium.until("#waterfall", "publish", PATIENCE).await;
    assert!(said.contains("queue") && said.contains("scan"), "{said}");
    chromium.until("#scan", "0 critical", PATIENCE).await;
    chromium.until("#live", "ended", PATIENCE).await;
    has_stayed(&chromium).await;
    fits(&chromium).await;
    keep(&chromium, "build").await;

    let rejected = system.api.submit("vulnerable", DOUBLE, "h11==0.14.0\n").await.unwrap();
    see(&chromium, &system, &format!("/console/builds/{}", rejected["build_id"].as_str().unwrap()))
        .await;
    stay(&chromium).await;
    chromium.until("#summary", "rejected", PATIENCE).await;
    let scan = chromium.until("#scan", "REJECTED", PATIENCE).await;
    assert!(scan.contains("h11 0.14.0") && scan.contains("upgrade to 0.16.0"), "{scan}");
    has_stayed(&chromium).await;
    keep(&chromium, "rejected").await;

    let slow = DOUBLE.replace(
        "import json",
        "import json, time\nfor _ in range(20):\n    print('<b>begun</b>', flush=True)\n    time.sleep(0.2)",
    );
    let slow = system.api.submit("slow", &slow, "").await.unwrap();
    let slow = system.api.ended(&slow, PATIENCE).await.unwrap();
    let task = system.api.run(&slow, &json!({ "n": 21 })).await.unwrap();
    let page = format!("/console/tasks/{}", task["task_id"].as_str().unwrap());
    see(&chromium, &system, &page).await;
    stay(&chromium).await;
    until_fetched(&chromium, &system, &page, "#log", "<b>begun</b>").await;
    chromium.until("#summary", "succeeded", PATIENCE).await;
    until_fetched(&chromium, &system, &page, "#result", "\"doubled\": 42").await;
    has_stayed(&chromium).await;
    fits(&chromium).await;
    keep(&chromium, "task").await;

    see(&chromium, &system, "/console").await;
    // Who could not say anything for 15 s is missed until it does.
    eventually("every service is there", PATIENCE, async || {
        let services = chromium.text("#services").await.ok()?;
        let is_missed = services.contains("no replica has said anything");
        (services.contains("janitor") && !is_missed).then_some(())
    })
    .await;
    keep(&chromium, "overview").await;
    for path in
        ["", "/functions", "/builds", "/tasks", "/workers", "/mirror", "/registry", "/audit"]
    {
        see(&chromium, &system, &format!("/console{path}")).await;
        fits(&chromium).await;
    }
    keep(&chromium, "audit").await;
    see(&chromium, &system, "/console/workers").await;
    chromium.until("#workers", "free", PATIENCE).await;
    keep(&chromium, "workers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_acts_and_a_viewer_looks_also_by_keyboard_and_without_a_script() {
    let Some(chromium) = Chromium::start().await.unwrap() else { return };
    let system = System::start(Infra::shared().await).await.unwrap();
    // Nobody can read it.
    let client = async_nats::ConnectOptions::with_user_and_password(
        system.nats.user.clone(),
        system.nats.password.clone(),
    );
    let client = client.connect(system.nats.url.clone()).await.unwrap();
    client.publish("build.requested", "<b>no event</b>".into()).await.unwrap();
    client.flush().await.unwrap();
    eventually("a dead letter", PATIENCE, async || {
        (dead_letters::count(&system.bus).await.ok()? == 1).then_some(())
    })
    .await;

    // The viewer: without JavaScript.
    let off = json!({ "value": true });
    chromium.devtools("Emulation.setScriptExecutionDisabled", &off).await.unwrap();
    log_in(&chromium, &system, &system.viewer_token, "/console/dead-letters").await;
    let letters = chromium.text("#letters").await.unwrap();
    assert!(letters.contains("build.requested"), "{letters}");
    chromium.click("#letters tbody a").await.unwrap();
    let page = chromium.until("main", "<b>no event</b>", PATIENCE).await;
    assert!(!page.contains("Replay"), "{page}");
    assert!(chromium.text("header").await.unwrap().contains("viewer"));
    chromium.click("nav a[href='/console/tasks']").await.unwrap();
    chromium.until("main", "There is no such task.", PATIENCE).await;
    assert_eq!(chromium.text("#live").await.unwrap_or_default(), "Look again");
    chromium.click("form.who button").await.unwrap();
    chromium.until("main", "API token", PATIENCE).await;

    // The operator: with it.
    let on = json!({ "value": false });
    chromium.devtools("Emulation.setScriptExecutionDisabled", &on).await.unwrap();
    log_in(&chromium, &system, &system.api.token, "/console/dead-letters").await;
    // The first stop of the Tab key leads past the menu.
    chromium.write("body", "\u{e004}").await.unwrap();
    let stop = chromium.script("return document.activeElement.textContent").await.unwrap();
    assert_eq!(stop, "Skip to the content");
    keep(&chromium, "dead-letters").await;
    fits(&chromium).await;
    chromium.click("#letters input[name=id]").await.unwrap();
    chromium.click("button[value=replay]").await.unwrap();
    chromium.until("main", "These are sent again", PATIENCE).await;
    chromium.click("main form button").await.unwrap();
    chromium.until(".notice", "Replayed", PATIENCE).await;
    see(&chromium, &system, "/console/audit").await;
    let audit = chromium.text("#audit").await.unwrap();
    assert!(
        audit.contains("replay") && audit.contains("log-out") && audit.contains("viewer"),
        "{audit}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_drained_and_taken_back_and_a_function_is_built_again() {
    let Some(chromium) = Chromium::start().await.unwrap() else { return };
    let system = System::start(Infra::shared().await).await.unwrap();
    let function = system.api.submit("double", DOUBLE, "").await.unwrap();
    let function = system.api.ended(&function, PATIENCE).await.unwrap();
    assert_eq!(function["status"], "ready", "{function}");

    log_in(&chromium, &system, &system.api.token, "/console/workers").await;
    chromium.until("#workers", "free", PATIENCE).await;
    chromium.click("#workers a[href*=drain]").await.unwrap();
    let question = chromium.until("main", "takes no more tasks", PATIENCE).await;
    assert!(question.contains("No other worker takes tasks"), "{question}");
    fits(&chromium).await;
    chromium.click("main form button").await.unwrap();
    chromium.until(".notice", "takes no more tasks", PATIENCE).await;
    chromium.script("window.stayed = true").await.unwrap();
    chromium.until("#workers", "drained", PATIENCE).await;
    assert_eq!(chromium.script("return window.stayed").await.unwrap(), true);
    fits(&chromium).await;
    keep(&chromium, "worker-drained").await;

    // What comes now waits for somebody to take it back.
    let task = system.api.run(&function, &json!({ "n": 21 })).await.unwrap();
    let page = format!("/console/tasks/{}", task["task_id"].as_str().unwrap());
    see(&chromium, &system, &page).await;
    chromium.until("#summary", "queued", PATIENCE).await;
    see(&chromium, &system, "/console/workers").await;
    chromium.click("#workers form button").await.unwrap();
    chromium.until(".notice", "It takes tasks again", PATIENCE).await;
    chromium.until("#workers", "free", PATIENCE).await;
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    assert_eq!((&ended["status"], &ended["attempt"]), (&json!("succeeded"), &json!(1)), "{ended}");

    // The same in a terminal.
    let drain = ["workers", "drain", &system.owner, "--wait", "--json"];
    let drained: serde_json::Value =
        serde_json::from_str(&system.mecapy(&drain).await.unwrap()).unwrap();
    assert_eq!(drained["state"], "drained", "{drained}");
    let listed = system.mecapy(&["workers"]).await.unwrap();
    assert!(listed.contains("drained"), "{listed}");
    system.mecapy(&["workers", "resume", &system.owner]).await.unwrap();

    see(&chromium, &system, &format!("/console/functions/{}", function["function_id"])).await;
    chromium.click("form[action$=rebuild] button").await.unwrap();
    chromium.until(".notice", "Built again", PATIENCE).await;
    chromium.until("#summary", "ready", PATIENCE).await;
    let address = chromium.address().await.unwrap();
    assert!(!address.contains(function["build_id"].as_str().unwrap()), "{address}");
    let task = system.api.run(&function, &json!({ "n": 2 })).await.unwrap();
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    assert_eq!(ended["status"], "succeeded", "{ended}");

    see(&chromium, &system, "/console/audit").await;
    let audit = chromium.text("#audit").await.unwrap();
    for action in ["drain-worker", "resume-worker", "rebuild-function"] {
        assert!(audit.contains(action), "{action} in {audit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_is_planned_applied_and_undone_from_pages_that_name_what_goes() {
    let Some(chromium) = Chromium::start().await.unwrap() else { return };
    // A registry of its own: a cleanup is about all that is in it.
    let infra = Infra::start(&Server::ALL).await;
    let system = System::start(&infra).await.unwrap();
    let function = system.api.submit("double", DOUBLE, "").await.unwrap();
    let function = system.api.ended(&function, PATIENCE).await.unwrap();
    let path = format!("/functions/{}", function["function_id"]);
    let gone = system.api.request(Method::DELETE, &path).send().await.unwrap();
    assert!(gone.status().is_success(), "{}", gone.status());
    // A first look records since when the registry has its images; no image of today goes.
    system.mecapy(&["cleanup", "plan", "--json"]).await.unwrap();
    sqlx::query("update registry_images set first_seen_at = now() - interval '100 days'")
        .execute(&system.pool)
        .await
        .unwrap();
    sqlx::query(
        "insert into storage_samples (day, bytes)
         select (now() at time zone 'utc')::date - n, 60000000000 - n * 400000000::bigint + (n * 7919 % 13) * 100000000::bigint
         from generate_series(1, 60) n",
    )
    .execute(&system.pool)
    .await
    .unwrap();

    log_in(&chromium, &system, &system.api.token, "/console/registry").await;
    keep(&chromium, "registry").await;
    fits(&chromium).await;
    chromium.click("main form.inline button").await.unwrap();
    // What it names is the function's image, with its digest.
    chromium.until("#items", "deleted-function", PATIENCE).await;
    chromium.until("#next", "Delete what it names", PATIENCE).await;
    keep(&chromium, "cleanup-plan").await;
    chromium.click("#next a").await.unwrap();
    let named = chromium.until("main", "Delete it", PATIENCE).await;
    let digest = function["docker_image"].as_str().unwrap().rsplit_once(':').unwrap().1;
    assert!(named.contains(&digest[..12]), "{named}");
    chromium.click("input[name=although]").await.unwrap();
    chromium.click("button.danger").await.unwrap();
    chromium.until("#items", "done", PATIENCE).await;
    chromium.until("#next", "Put back what it deleted", PATIENCE).await;
    chromium.click("#next a").await.unwrap();
    let named = chromium.until("main", "Put it back", PATIENCE).await;
    assert!(named.contains(&digest[..12]), "{named}");
    chromium.click("main form button").await.unwrap();
    chromium.until("#items", "undone", PATIENCE).await;
    see(&chromium, &system, "/console/audit").await;
    let audit = chromium.text("#audit").await.unwrap();
    for action in ["plan-cleanup", "apply-cleanup", "undo-cleanup", "delete-function"] {
        assert!(audit.contains(action), "{action} in {audit}");
    }
}
