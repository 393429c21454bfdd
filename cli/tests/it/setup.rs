use mecapy_testkit::{Infra, Server};

use crate::fake_gateway::{FakeGateway, Reply};
use crate::program::{Running, command, mecapy};
use crate::servers::Servers;

#[tokio::test]
async fn setup_can_be_run_again_and_status_shows_what_it_made() {
    let servers = Servers::new().await;
    let config = servers.config();
    let before = mecapy(&["status", "--config", config]).await.expect(1);
    assert!(before.stderr.contains("run `mecapy setup`"), "{before:#?}");

    let first = mecapy(&["setup", "--config", config]).await.expect(0);
    for made in [
        "stream PIPELINE",
        "consumer worker of TASKS",
        "bucket task-results",
        "bucket workers",
        "bucket replicas",
        "bucket drains",
        "schema of PostgreSQL",
        "S3 bucket bucket-",
    ] {
        assert!(first.stdout.contains(made), "{first:#?}");
    }
    assert!(first.stderr.contains("NATS at nats://127.0.0.1:"), "{first:#?}");
    let second = mecapy(&["setup", "--json", "--config", config]).await.expect(0);
    assert!(second.json()["done"].as_array().unwrap().len() > 8, "{second:#?}");

    let status = mecapy(&["status", "--json", "--config", config]).await.expect(0).json();
    assert_eq!(status["dead_letters"], 0);
    assert_eq!(status["queues"].as_array().unwrap().len(), mecapy_bus::topology::DURABLES.len());
    assert_eq!(status["builds"], serde_json::json!({}));

    let nobody = mecapy(&["workers", "--json", "--config", config]).await.expect(0);
    assert_eq!(nobody.json(), serde_json::json!([]));
}

#[tokio::test]
async fn setup_waits_for_a_server_that_comes_later() {
    let own = Infra::start(&[Server::Nats]).await;
    let servers = Servers::with_nats(own.nats().await).await;
    own.stop(Server::Nats).await;
    let mut running = Running::start(&["setup", "--wait", "120", "--config", servers.config()]);
    running.says("waiting: can't reach NATS").await;
    own.resume(Server::Nats).await;
    running.finish().await.expect(0);
}

#[tokio::test]
async fn setup_does_not_wait_for_ever() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[nats]\nurl = \"nats://me:s3cret@127.0.0.1:1\"\n").unwrap();
    let ended = mecapy(&["setup", "--wait", "1", "--config", file.path().to_str().unwrap()])
        .await
        .expect(5);
    assert!(
        ended.stderr.contains("error: NATS at nats://me@127.0.0.1:1 is not ready: "),
        "{ended:#?}"
    );
    assert!(!ended.stderr.contains("s3cret"), "{ended:#?}");
}

#[tokio::test]
async fn a_wrong_configuration_exits_2_and_names_the_key() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[nats]\nurl = 5\n").unwrap();
    let ended = mecapy(&["setup", "--config", file.path().to_str().unwrap()]).await.expect(2);
    assert!(ended.stderr.contains("nats.url"), "{ended:#?}");
}

#[tokio::test]
async fn status_asks_the_services_that_are_named() {
    let servers = Servers::new().await;
    mecapy(&["setup", "--config", servers.config()]).await.expect(0);
    let ready = FakeGateway::start(|_, _| Reply::Json(200, r#"{"ready":true}"#.to_owned())).await;
    let waiting = FakeGateway::start(|_, _| {
        Reply::Json(503, r#"{"ready":false,"waiting_for":{"nats":"gone"}}"#.to_owned())
    })
    .await;
    let (worker, builder) = (format!("worker={}", ready.url), format!("builder={}/", waiting.url));
    let arguments = ["status", "--config", servers.config(), "--service", &worker, "--service"];
    let ended = mecapy(&[&arguments[..], &[&builder]].concat()).await.expect(1);
    assert!(ended.stdout.contains("worker   ready\n"), "{ended:#?}");
    assert!(ended.stdout.contains("builder  not ready  nats: gone\n"), "{ended:#?}");
    assert_eq!(waiting.lines(), ["GET /readyz"]);
}

#[tokio::test]
async fn who_asks_servers_that_nobody_has_named_is_told_how_to_name_them() {
    let nowhere = mecapy_testkit::free_port();
    let asked = command(&["workers"])
        .env("MECAPY_NATS__URL", format!("nats://127.0.0.1:{}", nowhere.number))
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert_eq!(asked.status.code(), Some(5), "{said}");
    assert!(said.contains("NATS at nats://127.0.0.1") && said.contains("--config"), "{said}");
}
