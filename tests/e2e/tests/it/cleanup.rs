//! The cleanup of the registry, as operators ask for it.

use mecapy_e2e::System;
use mecapy_testkit::{Infra, Server};
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
