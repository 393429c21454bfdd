//! The cleanup of the registry, as operators ask for it.

use mecapy_e2e::{Service, System};
use mecapy_testkit::{Infra, Server, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{DOUBLE, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_cleanup_plans_applies_and_leaves_what_lives() {
    let infra = Infra::start(&Server::ALL).await;
    let system = System::start(&infra).await.unwrap();
    let function = system.api.submit("double", DOUBLE, "").await.unwrap();
    let function = system.api.ended(&function, PATIENCE).await.unwrap();

    let plan = system.mecapy(&["cleanup", "plan", "--json"]).await.unwrap();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let applied = system.mecapy(&["cleanup", "apply", "--json"]).await.unwrap();
    let applied: Value = serde_json::from_str(&applied).unwrap();
    for run in [&plan, &applied] {
        assert_eq!(run["images_deleted"], 0, "{run}");
    }
    let digest = function["docker_image"].as_str().unwrap();
    let explained = system.mecapy(&["cleanup", "explain", digest]).await.unwrap();
    assert!(explained.contains("keep"), "{explained}");

    let task = system.api.run(&function, &json!({ "n": 4 })).await.unwrap();
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    assert_eq!(ended["result"]["doubled"], 8, "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cleanup_did_stands_in_its_metrics() {
    let infra = Infra::start(&Server::ALL).await;
    let system = System::start(&infra).await.unwrap();
    let function = system.api.submit("double", DOUBLE, "").await.unwrap();
    let function = system.api.ended(&function, PATIENCE).await.unwrap();
    let path = format!("/functions/{}", function["function_id"]);
    let gone = system.api.request(Method::DELETE, &path).send().await.unwrap();
    assert!(gone.status().is_success(), "{}", gone.status());

    // A first look records since when the registry has its images; no image of today goes.
    system.mecapy(&["cleanup", "plan", "--json"]).await.unwrap();
    let aged = "update registry_images set first_seen_at = now() - interval '100 days'";
    sqlx::query(aged).execute(&system.pool).await.unwrap();
    let applied = system.mecapy(&["cleanup", "apply", "--confirm", "--json"]).await.unwrap();
    let applied: Value = serde_json::from_str(&applied).unwrap();
    // The image, and what refers to it: its bill of materials, reports and provenance.
    assert_eq!(applied["deleted_by_policy"]["functions/deleted-function"], 1, "{applied}");

    let sample = async |name: &str| {
        eventually(name, PATIENCE, async || {
            let metrics = system.admin(Service::Janitor, "/metrics").await.ok()?;
            let line = metrics.lines().find(|line| line.starts_with(name))?;
            line.rsplit_once(' ')?.1.parse::<f64>().ok()
        })
        .await
    };
    let deleted = "registry_cleanup_images_deleted_total{service=\"janitor\",policy=\"functions/deleted-function\"}";
    assert_eq!(sample(deleted).await, 1.0);
    assert_eq!(
        sample("registry_cleanup_runs_total{service=\"janitor\",how=\"applied\"}").await,
        1.0
    );
    let freed = sample("registry_cleanup_space_freed_bytes{").await;
    assert_eq!(applied["freed_bytes"].as_f64(), Some(freed), "{applied}");
    let used = sample("registry_storage_used_bytes{").await;
    assert_eq!(applied["storage_used_bytes"].as_f64(), Some(used), "{applied}");
    assert!(sample("registry_storage_limit_bytes{").await > used);
    // One day's sample makes no trend.
    assert_eq!(sample("registry_storage_days_until_limit{").await, f64::INFINITY);
}
