//! Owners are told by webhooks, through the whole system.

use std::sync::{Arc, Mutex};

use mecapy_e2e::{Service, System};
use mecapy_testkit::{Infra, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::{DOUBLE, PATIENCE};

/// Keeps the bodies of what it is sent.
#[derive(Debug, Clone, Default)]
struct Receiver(Arc<Mutex<Vec<Value>>>);

impl Receiver {
    /// And its URL.
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let receiver = Self::default();
        let kept = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(kept.clone().serve(stream));
            }
        });
        (receiver, url)
    }

    async fn serve(self, mut stream: TcpStream) -> Option<()> {
        let mut bytes = Vec::new();
        loop {
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
            if body.len() == length.parse::<usize>().ok()? {
                let body = serde_json::from_str(body).unwrap();
                self.0.lock().unwrap().push(body);
                break;
            }
        }
        let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await.ok()
    }

    async fn told(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually(what, PATIENCE, async || {
            self.0.lock().unwrap().iter().find(|body| is_it(body)).cloned()
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_told_of_a_build_and_of_a_task_also_after_the_notifier_was_down() {
    let more = "[webhooks]\nallow_http = true\nallow_private = true\n";
    let system = System::start_with(Infra::shared().await, more).await.unwrap();
    let (receiver, url) = Receiver::start().await;
    let added = system.mecapy(&["webhooks", "add", &url, "--json"]).await.unwrap();
    let webhook: Value = serde_json::from_str(&added).unwrap();
    assert!(webhook["secret"].as_str().unwrap().starts_with("whsec_"));
    let id = webhook["webhook_id"].as_str().unwrap();
    system.mecapy(&["webhooks", "test", id]).await.unwrap();
    receiver.told("a test", |body| body["type"] == "webhook.test").await;

    let function = system.api.submit("double", DOUBLE, "").await.unwrap();
    let ready = system.api.ended(&function, PATIENCE).await.unwrap();
    let told = receiver.told("the build is ready", |body| body["type"] == "push.done").await;
    assert_eq!(told["subject"], ready["build_id"]);
    assert_eq!(told["data"]["image"], ready["docker_image"]);
    assert_eq!((&told["owner"], &told["functionname"]), (&ready["owner"], &json!("double")));

    system.kill(Service::Notifier).await.unwrap();
    let task = system.api.run(&ready, &json!({ "n": 2 })).await.unwrap();
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    system.spawn(Service::Notifier).unwrap();
    let told = receiver.told("the task has ended", |body| body["type"] == "task.done").await;
    assert_eq!(
        (&told["subject"], &told["data"]["status"]),
        (&ended["task_id"], &json!("SUCCEEDED"))
    );

    // What it was told of once, it was told of once.
    let listed = system.mecapy(&["webhooks", "deliveries", id, "--json"]).await.unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let mut types: Vec<&str> =
        listed.as_array().unwrap().iter().filter_map(|row| row["event_type"].as_str()).collect();
    types.sort_unstable();
    assert_eq!(types, ["push.done", "task.done", "webhook.test"]);
}
