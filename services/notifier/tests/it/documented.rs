//! The example of docs/webhooks.md does what it says.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::receiver::Receiver;
use crate::world::{World, told};

/// The first block of Python in the page.
fn example() -> String {
    let page = include_str!("../../../../docs/webhooks.md");
    let (_, rest) = page.split_once("```python\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_example_for_receivers_verifies_a_message_and_refuses_a_changed_one() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3 here");
        return;
    }
    let (world, _notifier) = World::start().await;
    let receiver = Receiver::start([]).await;
    let (_, secret) = told(&world, &receiver).await;
    world.publish(&world.pushed()).await;
    let request = receiver.received(1).await.remove(0);

    let run = |secret: &str, body: &[u8], timestamp: &str| {
        let headers = serde_json::json!({
            "webhook-id": request.header("webhook-id"),
            "webhook-timestamp": timestamp,
            "webhook-signature": request.header("webhook-signature"),
        });
        let check = format!(
            "{}\nimport sys\nprint(verify({secret:?}, {headers}, sys.stdin.buffer.read())[\"type\"])\n",
            example()
        );
        let mut python = Command::new("python3")
            .args(["-c", &check])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(body).unwrap();
        let output = python.wait_with_output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), complaint)
    };
    let now = request.header("webhook-timestamp");
    assert_eq!(run(&secret, &request.body, now), ("push.done".to_owned(), String::new()));

    let mut changed = request.body.clone();
    changed.push(b' ');
    let other = mecapy_webhooks::signature::new_secret().unwrap();
    for (said, complaint) in [
        run(&secret, &changed, now),
        run(other.expose(), &request.body, now),
        run(&secret, &request.body, "1000000000"),
    ] {
        assert!(said.is_empty() && complaint.contains("ValueError"), "{said} {complaint}");
    }
}
