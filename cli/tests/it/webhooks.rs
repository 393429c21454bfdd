use serde_json::{Value, json};

use crate::fake_gateway::{FakeGateway, Reply, problem};
use crate::program::mecapy;

const WEBHOOK: &str = "018f4e3e-0000-7000-8000-0000000000aa";
const DELIVERY: &str = "018f4e3e-0000-7000-8000-0000000000dd";

fn webhook(secret: bool) -> Value {
    let mut webhook = json!({
        "webhook_id": WEBHOOK, "owner": "acme", "function_id": 456, "url": "https://hooks.example.com/",
        "description": "", "events": ["ready", "task_ended"], "enabled": true, "disabled_reason": null, "failing_since": null,
        "previous_secret_until": null, "created_at": "2026-01-01T00:00:00Z",
    });
    if secret {
        webhook["secret"] = "whsec_c2VjcmV0".into();
    }
    webhook
}

fn delivery(status: &str) -> Value {
    json!({
        "delivery_id": DELIVERY, "webhook_id": WEBHOOK, "event_id": "webhook.test/1", "event_type": "webhook.test",
        "status": status, "tries": 1, "next_attempt_at": null, "give_up_at": null, "last_status": 500,
        "last_error": "the receiver answered 500", "created_at": "2026-01-01T00:00:00Z", "ended_at": null,
    })
}

#[tokio::test]
async fn a_webhook_is_added_with_its_secret_on_standard_output() {
    let gateway = FakeGateway::start(|_, _| Reply::Json(201, webhook(true).to_string())).await;
    let arguments = [
        "webhooks",
        "add",
        "https://hooks.example.com/",
        "--function",
        "456",
        "--event",
        "ready",
        "--event",
        "task_ended",
        "--url",
        &gateway.url,
    ];
    let added = mecapy(&arguments).await.expect(0);
    assert!(added.stdout.contains("whsec_c2VjcmV0"), "{}", added.stdout);
    assert!(added.stderr.contains("not shown again") && !added.stderr.contains("whsec_"));
    let request = gateway.requests().remove(0);
    assert_eq!(request.line, "POST /webhooks");
    assert_eq!(
        serde_json::from_str::<Value>(&request.body).unwrap(),
        json!({ "url": "https://hooks.example.com/", "function_id": 456, "events": ["ready", "task_ended"] })
    );
}

#[tokio::test]
async fn lists_follow_their_pages() {
    let gateway = FakeGateway::start(|request, _| {
        let next = if request.line.contains("page_token") { Value::Null } else { "t".into() };
        let body = match request.line.contains("deliveries") {
            true => json!({ "deliveries": [delivery("dead")], "next_page_token": next }),
            false => json!({ "webhooks": [webhook(false)], "next_page_token": next }),
        };
        Reply::Json(200, body.to_string())
    })
    .await;
    let list = mecapy(&["webhooks", "list", "--json", "--url", &gateway.url]).await.expect(0);
    assert_eq!(list.json().as_array().unwrap().len(), 2);
    let arguments = [
        "webhooks",
        "deliveries",
        WEBHOOK,
        "--status",
        "dead",
        "--limit",
        "2",
        "--url",
        &gateway.url,
    ];
    let deliveries = mecapy(&arguments).await.expect(0);
    assert!(deliveries.stdout.contains("the receiver answered 500"), "{}", deliveries.stdout);
    assert_eq!(
        gateway.lines()[2..],
        [
            format!("GET /webhooks/{WEBHOOK}/deliveries?page_size=2&status=dead"),
            format!("GET /webhooks/{WEBHOOK}/deliveries?page_size=1&status=dead&page_token=t"),
        ]
    );
}

#[tokio::test]
async fn a_test_waits_for_the_answer_and_its_exit_code_tells() {
    for (end, code) in [("delivered", 0), ("dead", 1)] {
        let gateway = FakeGateway::start(move |_, before| match before {
            0 => Reply::Json(202, delivery("pending").to_string()),
            1 => Reply::Json(200, delivery("pending").to_string()),
            _ => Reply::Json(200, delivery(end).to_string()),
        })
        .await;
        let tested =
            mecapy(&["webhooks", "test", WEBHOOK, "--url", &gateway.url]).await.expect(code);
        assert!(tested.stdout.contains(end));
        let (test, look) =
            (format!("POST /webhooks/{WEBHOOK}/test"), format!("GET /deliveries/{DELIVERY}"));
        assert_eq!(gateway.lines(), [test, look.clone(), look]);
    }
}

#[tokio::test]
async fn each_command_is_one_request_and_a_refusal_names_the_reason() {
    let gateway = FakeGateway::start(|request, _| match request.line.as_str() {
        line if line.starts_with("DELETE") => Reply::Json(200, "{}".to_owned()),
        line if line.contains("deliveries") => Reply::Json(202, delivery("pending").to_string()),
        "POST /webhooks" => {
            problem(422, "webhook-refused", "the URL must begin with https://", Some("url"))
        }
        _ => Reply::Json(200, webhook(true).to_string()),
    })
    .await;
    let call = async |arguments: &[&str]| {
        mecapy(&[&["webhooks"], arguments, &["--url", &gateway.url]].concat()).await
    };
    for arguments in [
        &["show", WEBHOOK][..],
        &["rotate", WEBHOOK],
        &["enable", WEBHOOK],
        &["remove", WEBHOOK, "--yes"],
        &["delivery", DELIVERY],
        &["resend", DELIVERY],
    ] {
        call(arguments).await.expect(0);
    }
    let refused = call(&["add", "http://hooks.example.com/"]).await.expect(1);
    assert!(refused.stderr.contains("the URL must begin with https://"), "{}", refused.stderr);
    call(&["remove", WEBHOOK]).await.expect(2);
    call(&["show", "5"]).await.expect(2);
    assert_eq!(
        gateway.lines(),
        [
            format!("GET /webhooks/{WEBHOOK}"),
            format!("POST /webhooks/{WEBHOOK}/secret"),
            format!("POST /webhooks/{WEBHOOK}/enable"),
            format!("DELETE /webhooks/{WEBHOOK}"),
            format!("GET /deliveries/{DELIVERY}"),
            format!("POST /deliveries/{DELIVERY}/resend"),
            "POST /webhooks".to_owned(),
        ]
    );
}
