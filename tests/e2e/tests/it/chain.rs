//! From source to result, and every refusal on the way.

use mecapy_e2e::{Service, System};
use mecapy_testkit::{Infra, eventually};
use serde_json::json;

use crate::{DOUBLE, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_built_scanned_published_and_run() {
    let system = System::start(Infra::shared().await).await.unwrap();
    let function = system.api.submit("double", DOUBLE, "").await.unwrap();
    assert!(matches!(function["status"].as_str(), Some("queued" | "building")), "{function}");
    let ready = system.api.ended(&function, PATIENCE).await.unwrap();
    assert_eq!(ready["status"], "ready", "{ready}");
    let image = ready["docker_image"].as_str().unwrap();
    assert!(
        image.contains("@sha256:") && image.contains(&format!("user-{}-func-", system.owner)),
        "{image}"
    );
    assert!(ready["image_size"].as_str().unwrap().ends_with("MB"), "{ready}");
    assert_eq!(ready["vulnerabilities"]["critical"], 0);

    let task = system.api.run(&ready, &json!({ "n": 21 })).await.unwrap();
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_eq!(ended["result"], json!({ "doubled": 42 }), "{ended}");
    let id = ended["task_id"].as_str().unwrap();
    let logs = system.api.get_text(&format!("/tasks/{id}/logs")).await.unwrap();
    assert!(logs.contains("doubling"), "{logs}");

    for service in Service::ALL {
        let took_part = !matches!(service, Service::Gateway | Service::Mirror | Service::Janitor);
        // A service counts what it did after it has told of it.
        eventually(&format!("{service:?} has counted its part"), PATIENCE, async || {
            let metrics = system.admin(service, "/metrics").await.unwrap();
            (!took_part || metrics.contains("mecapy_stage_duration_seconds")).then_some(())
        })
        .await;
        assert!(
            system.terminate(service).await.unwrap().success(),
            "{service:?} ends well on SIGTERM"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_a_critical_vulnerability_is_rejected_and_never_published() {
    let system = System::start(Infra::shared().await).await.unwrap();
    let function = system.api.submit("vulnerable", DOUBLE, "h11==0.14.0\n").await.unwrap();
    let ended = system.api.ended(&function, PATIENCE).await.unwrap();
    assert_eq!(ended["status"], "rejected", "{ended}");
    assert_eq!(ended["vulnerabilities"]["critical"], 1, "{ended}");
    assert!(ended["docker_image"].is_null() || ended["docker_image"] == "", "{ended}");
    let (status, problem) = system
        .api
        .post(&format!("/functions/{}/tasks", ended["function_id"]), &json!({ "inputs": {} }), None)
        .await
        .unwrap();
    assert_eq!(
        (status.as_u16(), problem["code"].as_str()),
        (409, Some("function-not-ready")),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_got_wrong_is_a_typed_failure_with_the_lines_that_show_it() {
    let system = System::start(Infra::shared().await).await.unwrap();
    let missing = system
        .api
        .submit("missing", DOUBLE, "mecapy-no-such-package-on-the-index\n")
        .await
        .unwrap();
    let forbidden = system.api.submit("forbidden", "import socket\n", "").await.unwrap();
    let syntax = system.api.submit("syntax", "def f(:\n    pass\n", "").await.unwrap();
    let raises = system.api.submit("raises", "raise ValueError('no luck')\n", "").await.unwrap();

    let ended = system.api.ended(&missing, PATIENCE).await.unwrap();
    assert_eq!(ended["error"]["code"], "requirement-not-found", "{ended}");
    assert!(
        ended["error"]["message"].as_str().unwrap().contains("mecapy-no-such-package"),
        "{ended}"
    );
    assert!(!ended["error"]["log_tail"].as_array().unwrap().is_empty(), "{ended}");
    let ended = system.api.ended(&forbidden, PATIENCE).await.unwrap();
    assert_eq!(ended["error"]["code"], "forbidden-import", "{ended}");
    let ended = system.api.ended(&syntax, PATIENCE).await.unwrap();
    assert_eq!(ended["error"]["code"], "syntax-error", "{ended}");

    let ready = system.api.ended(&raises, PATIENCE).await.unwrap();
    assert_eq!(ready["status"], "ready", "{ready}");
    let task = system.api.run(&ready, &json!(null)).await.unwrap();
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    assert_eq!(
        (ended["status"].as_str(), ended["exit_code"].as_i64()),
        (Some("failed"), Some(1)),
        "{ended}"
    );
    assert_eq!(ended["error"]["code"], "function-failed", "{ended}");
    assert!(ended["error"].to_string().contains("no luck"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_at_the_door_names_its_field() {
    let system = System::start(Infra::shared().await).await.unwrap();
    let requirements = (0..51).map(|n| format!("package-{n}\n")).collect::<String>();
    let cases = [
        (json!({ "name": "f", "code": "#".repeat(1_048_577) }), 413, "code-too-large", "code"),
        (
            json!({ "name": "f", "code": "1\n", "requirements": requirements }),
            422,
            "too-many-requirements",
            "requirements",
        ),
        (
            json!({ "name": "f", "code": "1\n", "python_version": "2.7" }),
            422,
            "unsupported-python",
            "python_version",
        ),
        (json!({ "name": "NO", "code": "1\n" }), 422, "invalid-field", "name"),
    ];
    for (body, status, code, field) in cases {
        let (answered, problem) = system.api.post("/functions", &body, None).await.unwrap();
        assert!(answered.is_client_error(), "{answered} is not {status}: {problem}");
        assert_eq!(
            (problem["code"].as_str(), problem["field"].as_str()),
            (Some(code), Some(field)),
            "{problem}"
        );
    }
}
