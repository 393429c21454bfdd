//! Processes that die and servers that go away, in the middle of the work.

use std::time::Duration;

use mecapy_e2e::{Service, System};
use mecapy_testkit::{Infra, Server, eventually};
use serde_json::{Value, json};

use crate::{DOUBLE, PATIENCE};

/// Ends when the test says so.
const WAITS: &str = r#"
import json, time
while True:
    try:
        open("/tmp/go").close()
        break
    except FileNotFoundError:
        time.sleep(0.01)
with open("/output.json", "w") as file:
    json.dump("done", file)
"#;

/// As long as the servers of these tests stay away.
const OUTAGE: Duration = Duration::from_secs(20);

async fn status_is(system: &System, path: &str, status: &str) {
    eventually(&format!("{path} is {status}"), PATIENCE, async || {
        let value = system.api.get(path).await.ok()?;
        (value["status"] == status).then_some(())
    })
    .await;
}

/// Whether a service is at work on a message right now.
async fn is_at_work(system: &System, service: Service) {
    let sample = format!("mecapy_in_flight{{service=\"{0}\",consumer=\"{0}\"}} ", service.name());
    eventually(&format!("{} is at work", service.name()), PATIENCE, async || {
        let metrics = system.admin(service, "/metrics").await.ok()?;
        metrics.lines().find(|line| line.starts_with(&sample))?.ends_with(" 1").then_some(())
    })
    .await;
}

/// The word that `WAITS` waits for, in whatever containers the worker has now.
fn let_go(system: &System) {
    let of_worker = format!("label=org.mecapy.worker={}", system.owner);
    let touch = format!(
        "for id in $(docker ps --quiet --filter {of_worker}); do docker exec $id touch /tmp/go; done"
    );
    // A container may be gone by now, or not be up yet: the next word reaches those that are.
    let _ = std::process::Command::new("sh").args(["-c", &touch]).output().unwrap();
}

async fn kill_and_start(system: &System, service: Service) {
    system.kill(service).await.unwrap();
    system.spawn(service).unwrap();
    system.ready(service).await;
}

async fn ends_ready(system: &System, function: &Value) -> Value {
    let ended = system.api.ended(function, PATIENCE).await.unwrap();
    assert_eq!(ended["status"], "ready", "{ended}");
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_at_work_ends_it_once_after_its_restart() {
    let infra = Infra::start(&Server::ALL).await;
    let system = System::start(&infra).await.unwrap();

    // The builder, while it resolves the requirements.
    let function = system.api.submit("builder", DOUBLE, "idna==3.10\n").await.unwrap();
    status_is(&system, &format!("/functions/{}", function["function_id"]), "building").await;
    is_at_work(&system, Service::Builder).await;
    kill_and_start(&system, Service::Builder).await;
    ends_ready(&system, &function).await;

    // The scanner, while S3 is away and it can't write its report.
    system.kill(Service::Scanner).await.unwrap();
    let function = system.api.submit("scanner", &format!("{DOUBLE}# 2\n"), "").await.unwrap();
    status_is(&system, &format!("/functions/{}", function["function_id"]), "scanning").await;
    infra.stop(Server::S3).await;
    system.spawn(Service::Scanner).unwrap();
    is_at_work(&system, Service::Scanner).await;
    system.kill(Service::Scanner).await.unwrap();
    infra.resume(Server::S3).await;
    system.spawn(Service::Scanner).unwrap();
    ends_ready(&system, &function).await;

    // The publisher, while the registry is away.
    system.kill(Service::Publisher).await.unwrap();
    let function = system.api.submit("publisher", &format!("{DOUBLE}# 3\n"), "").await.unwrap();
    status_is(&system, &format!("/functions/{}", function["function_id"]), "publishing").await;
    infra.stop(Server::Primary).await;
    system.spawn(Service::Publisher).unwrap();
    is_at_work(&system, Service::Publisher).await;
    system.kill(Service::Publisher).await.unwrap();
    infra.resume(Server::Primary).await;
    system.spawn(Service::Publisher).unwrap();
    ends_ready(&system, &function).await;

    // The worker, while the function runs.
    let function = system.api.submit("worker", WAITS, "").await.unwrap();
    let function = ends_ready(&system, &function).await;
    let task = system.api.run(&function, &json!({})).await.unwrap();
    let path = format!("/tasks/{}", task["task_id"].as_str().unwrap());
    status_is(&system, &path, "running").await;
    kill_and_start(&system, Service::Worker).await;
    eventually("the task ends when it may", PATIENCE, async || {
        let_go(&system);
        let task = system.api.get(&path).await.ok()?;
        (!matches!(task["status"].as_str(), Some("queued" | "running"))).then_some(())
    })
    .await;
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    assert_eq!(
        (ended["status"].as_str(), ended["result"].as_str()),
        (Some("succeeded"), Some("done")),
        "{ended}"
    );
    assert_eq!(ended["attempt"], 2, "{ended}");

    // The gateway, between the request and the answer.
    let function = system.api.submit("gateway", &format!("{DOUBLE}# 5\n"), "").await.unwrap();
    kill_and_start(&system, Service::Gateway).await;
    ends_ready(&system, &function).await;

    let ready = ready_functions(&system).await;
    assert_eq!(ready, 5, "each build ended once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_builder_that_is_killed_is_there_while_it_is_dead_and_the_next_one_goes_on_with_it()
 {
    let infra = Infra::shared().await;
    let mut system = System::set_up(infra, "").await.unwrap();
    // The first has an index that takes connections and says nothing: it would resolve until its time is over.
    let index = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/simple", index.local_addr().unwrap());
    system.environment =
        [("MECAPY_BUILDER__INDEX_URL", url), ("MECAPY_BUILDER__NO_PROXY", "127.0.0.1".to_owned())]
            .into();
    system.start_all().await.unwrap();
    let function = system.api.submit("logged", DOUBLE, "idna==3.10\n").await.unwrap();
    let path = format!("/builds/{}/logs", function["build_id"].as_str().unwrap());
    let log = async || system.api.get_text(&path).await.unwrap_or_default();
    eventually("it can be read while it grows", PATIENCE, async || {
        log().await.contains("resolving").then_some(())
    })
    .await;
    system.kill(Service::Builder).await.unwrap();
    assert!(log().await.contains("resolving"));

    system.environment.clear();
    system.spawn(Service::Builder).unwrap();
    ends_ready(&system, &function).await;
    let log = log().await;
    assert!(log.matches("resolving").count() >= 2, "{log}");
    let tries: Vec<&str> = log.split("--- the try before did not end it: try ").collect();
    assert!(tries.len() >= 2 && tries.last().unwrap().contains("the image is v1-"), "{log}");
}

async fn ready_functions(system: &System) -> usize {
    let rows = mecapy_store::functions::list(&system.pool, None, 0, 100).await.unwrap();
    rows.iter().filter(|function| function.docker_image.is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_for_20_seconds_delays_and_loses_nothing() {
    let infra = Infra::start(&Server::ALL).await;
    let system = System::start(&infra).await.unwrap();
    for (number, server) in
        [Server::Nats, Server::Postgres, Server::Primary, Server::S3].into_iter().enumerate()
    {
        let code = format!("{DOUBLE}# {number}\n");
        let function = system.api.submit(&format!("during-{number}"), &code, "").await.unwrap();
        infra.stop(server).await;
        tokio::time::sleep(OUTAGE).await;
        infra.resume(server).await;
        ends_ready(&system, &function).await;
        for service in Service::ALL {
            assert!(
                system.is_running(service),
                "{service:?} lived through the outage of {server:?}"
            );
        }
    }
}
