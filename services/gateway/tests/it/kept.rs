//! What the gateway keeps so that work whose message is lost can be sent on again.

use std::time::Duration;

use mecapy_proto::v1::build_requested::Source;
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_store::stalled;
use mecapy_testkit::eventually;
use serde_json::json;

use crate::door::Door;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn code_and_inputs_outlive_their_messages() {
    let door = Door::open().await;
    let function = door.ready_function("stats").await;
    let build = door.submit("other").await.build();
    let path = format!("/functions/{function}/tasks");
    let task = door.post(&path, json!({"inputs": {"n": 1}})).await.task();

    // Once the outbox has let go of them, nothing but the messages and these rows has them.
    let builds = eventually("the request is sent", PATIENCE, async || {
        let open = stalled::builds(&door.pool, Duration::ZERO, 10).await.unwrap();
        (!open.is_empty()).then_some(open)
    })
    .await;
    assert_eq!(builds.len(), 1, "a build that is ready is not open");
    assert_eq!(builds[0].build.id(), build);
    let request = builds[0].request.clone().unwrap();
    assert_eq!(request.source, Some(Source::Code("print(1)\n".into())));

    let tasks = eventually("the dispatch is sent", PATIENCE, async || {
        let open = stalled::tasks(&door.pool, Duration::ZERO, Duration::ZERO, 10).await.unwrap();
        (!open.is_empty()).then_some(open)
    })
    .await;
    assert_eq!(tasks[0].task.id(), task);
    let dispatch = tasks[0].dispatch.clone().unwrap();
    assert_eq!(dispatch.inputs, Some(Inputs::InputsJson(r#"{"n":1}"#.into())));
}
