//! Who may do what.

use mecapy_store::TaskState;
use reqwest::Method;

use crate::door::{Door, OPS, OTHER, VIEWER, answer};

#[tokio::test]
async fn without_a_valid_token_nothing_but_the_documents_is_answered() {
    let door = Door::open().await;
    for (method, path) in
        [(Method::GET, "/functions"), (Method::POST, "/functions"), (Method::GET, "/tasks/x")]
    {
        for token in [None, Some("wrong")] {
            let request = door.http.request(method.clone(), format!("{}{path}", door.url));
            let request = match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            let refused = answer(request).await;
            assert_eq!(refused.problem(), (401, "unauthorized", ""));
            assert_eq!(refused.header("www-authenticate"), "Bearer");
        }
    }
    for path in ["/", "/docs", "/openapi.json", "/errors/internal"] {
        assert_eq!(
            answer(door.http.get(format!("{}{path}", door.url))).await.status,
            200,
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_belongs_to_another_owner_does_not_exist() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let build = door.get(&format!("/functions/{function}")).await.build();
    let task =
        door.post(&format!("/functions/{function}/tasks"), serde_json::json!({})).await.task();
    door.complete(task, TaskState::Succeeded, None).await;
    for (method, path) in [
        (Method::GET, format!("/functions/{function}")),
        (Method::DELETE, format!("/functions/{function}")),
        (Method::GET, format!("/functions/{function}/builds/{build}")),
        (Method::POST, format!("/functions/{function}/tasks")),
        (Method::GET, format!("/builds/{build}")),
        (Method::GET, format!("/builds/{build}/logs")),
        (Method::GET, format!("/builds/{build}/events")),
        (Method::GET, format!("/tasks/{task}")),
        (Method::GET, format!("/tasks/{task}/result")),
        (Method::GET, format!("/tasks/{task}/logs")),
        (Method::POST, format!("/tasks/{task}/cancel")),
    ] {
        let refused =
            answer(door.http.request(method, format!("{}{path}", door.url)).bearer_auth(OTHER))
                .await;
        assert_eq!(refused.problem().0, 404, "{path}");
    }
    let list = |token| answer(door.http.get(format!("{}/functions", door.url)).bearer_auth(token));
    assert_eq!(list(OTHER).await.body["functions"], serde_json::json!([]));
    assert_eq!(
        list(OPS).await.body["functions"][0]["function_id"],
        function,
        "an operator sees all"
    );
    let seen = answer(door.http.get(format!("{}/tasks/{task}", door.url)).bearer_auth(OPS)).await;
    assert_eq!((seen.status, seen.text("/status")), (200, "succeeded"));
}

#[tokio::test]
async fn two_owners_may_use_one_name() {
    let door = Door::open().await;
    let ours = door.submit("stats").await;
    let request = door.http.post(format!("{}/functions", door.url)).bearer_auth(OTHER);
    let theirs = answer(request.json(&crate::door::submission("stats"))).await;
    assert_ne!(ours.function(), theirs.function());
    assert_eq!((ours.text("/owner"), theirs.text("/owner")), ("acme", "other"));
}

#[tokio::test]
async fn a_viewer_sees_everything_and_changes_nothing() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let build = door.get(&format!("/functions/{function}")).await.build();
    let task =
        door.post(&format!("/functions/{function}/tasks"), serde_json::json!({})).await.task();
    let ask = |method, path: String| {
        answer(door.http.request(method, format!("{}{path}", door.url)).bearer_auth(VIEWER))
    };
    for path in [
        "/functions".to_owned(),
        format!("/functions/{function}"),
        format!("/builds/{build}"),
        format!("/tasks/{task}"),
    ] {
        assert_eq!(ask(Method::GET, path.clone()).await.status / 100, 2, "{path}");
    }
    for (method, path) in [
        (Method::DELETE, format!("/functions/{function}")),
        (Method::POST, format!("/functions/{function}/tasks")),
        (Method::POST, format!("/builds/{build}/cancel")),
        (Method::POST, format!("/tasks/{task}/cancel")),
    ] {
        let refused = ask(method, path.clone()).await;
        assert_eq!(refused.problem(), (403, "forbidden", ""), "{path}");
    }
    let submission = door.http.post(format!("{}/functions", door.url)).bearer_auth(VIEWER);
    let refused = answer(submission.json(&crate::door::submission("mine"))).await;
    assert_eq!(refused.problem(), (403, "forbidden", ""));
    assert_eq!(door.get(&format!("/tasks/{task}")).await.text("/status"), "queued");
}
