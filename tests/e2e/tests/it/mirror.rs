//! The copy for the day when the primary registry is gone.

use mecapy_e2e::{Service, System};
use mecapy_testkit::{Infra, Server};
use serde_json::{Value, json};

use crate::{DOUBLE, PATIENCE};

async fn doubles(system: &System, function: &Value) -> Value {
    let task = system.api.run(function, &json!({ "n": 21 })).await.unwrap();
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    assert_eq!(
        (&ended["status"], &ended["result"]["doubled"]),
        (&json!("succeeded"), &json!(42)),
        "{ended}"
    );
    ended
}

/// Every image of this registry leaves the engine.
async fn forget_images(host: &str) {
    let list = format!(
        "docker images --digests --format '{{{{.Repository}}}}@{{{{.Digest}}}}' | grep '^{host}/mecapy/functions/' | xargs -r docker rmi -f"
    );
    let done = tokio::process::Command::new("sh").args(["-c", &list]).output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_mirrored_runs_when_the_primary_is_gone() {
    let infra = Infra::start(&Server::ALL).await;
    let system = System::start(&infra).await.unwrap();
    let function = system.api.submit("double", DOUBLE, "").await.unwrap();
    let function = system.api.ended(&function, PATIENCE).await.unwrap();
    doubles(&system, &function).await;

    let run = system.mecapy(&["mirror", "run", "--json"]).await.unwrap();
    let digest = function["docker_image"].as_str().unwrap().rsplit_once('@').unwrap().1;
    let shown = system.mecapy(&["mirror", "list"]).await.unwrap();
    assert!(shown.contains("manual"), "{run}\n{shown}");

    // A worker that has none of it, and a primary that does not answer.
    system.kill(Service::Worker).await.unwrap();
    forget_images(&system.primary.host).await;
    infra.stop(Server::Primary).await;
    system.spawn(Service::Worker).unwrap();
    system.ready(Service::Worker).await;
    let ended = doubles(&system, &function).await;
    assert_eq!(ended["cache"], "FAILOVER", "{digest}: {ended}");

    // The next run has nothing to move, and needs the primary for nothing but to say so.
    infra.resume(Server::Primary).await;
    let again = system.mecapy(&["mirror", "run", "--json"]).await.unwrap();
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["counts"]["mirrored"], 0, "{again}");
}
