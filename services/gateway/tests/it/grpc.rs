//! The same over gRPC.

use futures::StreamExt as _;
use mecapy_proto::v1::build_event::Event;
use mecapy_proto::v1::gateway_client::GatewayClient;
use mecapy_proto::v1::{
    BuildRequested, CancelBuildRequest, GetFunctionRequest, GetTaskRequest, ListFunctionsRequest,
    RunTaskRequest, SubmitFunctionRequest, TaskDispatch, WatchBuildRequest,
};
use mecapy_store::TaskState;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::door::{ACME, Door, OTHER};

async fn client(door: &Door) -> GatewayClient<Channel> {
    GatewayClient::new(Channel::from_shared(door.grpc.clone()).unwrap().connect().await.unwrap())
}

fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn ours<T>(message: T) -> Request<T> {
    by(ACME, message)
}

fn submission(name: &str) -> SubmitFunctionRequest {
    SubmitFunctionRequest { name: name.into(), code: "print(1)\n".into(), ..Default::default() }
}

fn problem(status: &Status) -> (Code, &str, &str) {
    let text = |key| status.metadata().get(key).map_or("", |value| value.to_str().unwrap());
    (status.code(), text("mecapy-error-code"), text("mecapy-error-field"))
}

#[tokio::test]
async fn a_function_is_built_again() {
    let door = Door::open().await;
    let mut client = client(&door).await;
    let submitted = client.submit_function(ours(submission("stats"))).await.unwrap().into_inner();
    door.make_ready(submitted.build_id.parse().unwrap()).await;
    let request = || GetFunctionRequest { function_id: submitted.function_id, wait_seconds: 0 };
    let again = client.rebuild_function(ours(request())).await.unwrap().into_inner();
    assert_eq!((again.status.as_str(), again.version), ("queued", 1));
    assert_ne!(again.build_id, submitted.build_id);
    let refused = client.rebuild_function(by(OTHER, request())).await.unwrap_err();
    assert_eq!(problem(&refused), (Code::NotFound, "unknown-function", ""));
}

#[tokio::test]
async fn a_function_goes_the_whole_way() {
    let door = Door::open().await;
    let mut client = client(&door).await;
    let submitted = client.submit_function(ours(submission("stats"))).await.unwrap().into_inner();
    assert_eq!(
        (submitted.status.as_str(), submitted.owner.as_str(), submitted.version),
        ("queued", "acme", 1)
    );
    let (event, _) = door.published::<BuildRequested>("PIPELINE", 1).await.remove(0);
    assert_eq!(
        (event.build_id.as_str(), event.python_version.as_str()),
        (submitted.build_id.as_str(), "3.11")
    );

    let watched = WatchBuildRequest { build_id: submitted.build_id.clone() };
    let mut events = client.watch_build(ours(watched)).await.unwrap().into_inner();
    let first = events.next().await.unwrap().unwrap().event;
    assert_eq!(first, Some(Event::Status("queued".into())));
    door.make_ready(submitted.build_id.parse().unwrap()).await;
    let mut last = None;
    while let Some(event) = events.next().await {
        last = event.unwrap().event;
    }
    let Some(Event::Ended(ended)) = last else { panic!("the last event was {last:?}") };
    assert_eq!(
        (ended.status.as_str(), ended.image_size.as_str(), ended.build_time.as_str()),
        ("ready", "245MB", "42s")
    );

    let asked = GetFunctionRequest { function_id: submitted.function_id, wait_seconds: 60 };
    assert_eq!(client.get_function(ours(asked)).await.unwrap().into_inner(), ended);
    let list =
        client.list_functions(ours(ListFunctionsRequest::default())).await.unwrap().into_inner();
    assert_eq!(list.functions, [ended]);

    client.delete_function(ours(asked)).await.unwrap();
    let gone = client.get_function(ours(asked)).await.unwrap_err();
    assert_eq!(problem(&gone), (Code::NotFound, "unknown-function", ""));
}

#[tokio::test]
async fn a_task_runs_and_can_be_cancelled() {
    let door = Door::open().await;
    let function_id = door.ready_function("stats").await;
    let mut client = client(&door).await;
    let run = RunTaskRequest {
        function_id,
        inputs_json: "[1]".into(),
        wait_seconds: 60,
        ..Default::default()
    };
    let mut waiting = client.clone();
    let (task, ()) = tokio::join!(waiting.run_task(ours(run.clone())), async {
        let (event, _) = door.published::<TaskDispatch>("TASKS", 1).await.remove(0);
        let id = event.task_id.parse().unwrap();
        door.results.put(id, bytes::Bytes::from_static(b"[2]")).await.unwrap();
        door.complete(id, TaskState::Succeeded, None).await;
    });
    let task = task.unwrap().into_inner();
    assert_eq!(
        (task.status.as_str(), task.result_json.as_str(), task.attempt),
        ("succeeded", "[2]", 1)
    );
    let asked = GetTaskRequest { task_id: task.task_id.clone(), wait_seconds: 0 };
    assert_eq!(client.get_task(ours(asked)).await.unwrap().into_inner(), task);

    let queued = client
        .run_task(ours(RunTaskRequest { wait_seconds: 0, ..run }))
        .await
        .unwrap()
        .into_inner();
    let asked = GetTaskRequest { task_id: queued.task_id, wait_seconds: 0 };
    let cancelled = client.cancel_task(ours(asked)).await.unwrap().into_inner();
    assert_eq!(cancelled.status, "cancelled");
    assert_eq!(cancelled.error.unwrap().code, "task-cancelled");
}

#[tokio::test]
async fn a_build_that_waits_is_cancelled() {
    let door = Door::open().await;
    let mut client = client(&door).await;
    let build_id =
        client.submit_function(ours(submission("stats"))).await.unwrap().into_inner().build_id;
    let cancel = CancelBuildRequest { build_id, wait_seconds: 0 };
    let theirs = client.cancel_build(by(OTHER, cancel.clone())).await.unwrap_err();
    assert_eq!(problem(&theirs).0, Code::NotFound);
    let cancelled = client.cancel_build(ours(cancel)).await.unwrap().into_inner();
    assert_eq!(cancelled.status, "failed");
    assert_eq!(cancelled.error.unwrap().code, "build-cancelled");
}

#[tokio::test]
async fn errors_carry_the_same_codes_and_fields() {
    let door = Door::open().await;
    let mut client = client(&door).await;
    let function_id =
        client.submit_function(ours(submission("stats"))).await.unwrap().into_inner().function_id;

    let wrong = SubmitFunctionRequest { python_version: "2.7".into(), ..submission("stats") };
    let refused = client.submit_function(ours(wrong)).await.unwrap_err();
    assert_eq!(problem(&refused), (Code::InvalidArgument, "unsupported-python", "python_version"));

    let run = RunTaskRequest { function_id, ..Default::default() };
    let refused = client.run_task(ours(run.clone())).await.unwrap_err();
    assert_eq!(problem(&refused), (Code::FailedPrecondition, "function-not-ready", ""));
    let wrong = RunTaskRequest { inputs_json: "{".into(), ..run };
    let refused = client.run_task(ours(wrong)).await.unwrap_err();
    assert_eq!(problem(&refused), (Code::InvalidArgument, "invalid-inputs", "inputs_json"));

    let asked = GetFunctionRequest { function_id, wait_seconds: 0 };
    let refused = client.get_function(Request::new(asked)).await.unwrap_err();
    assert_eq!(problem(&refused), (Code::Unauthenticated, "unauthorized", ""));
    let refused = client.get_function(by(OTHER, asked)).await.unwrap_err();
    assert_eq!(
        problem(&refused),
        (Code::NotFound, "unknown-function", ""),
        "a foreign function does not exist"
    );
}

#[tokio::test]
async fn one_key_is_one_build_over_both_protocols() {
    let door = Door::open().await;
    let mut client = client(&door).await;
    let mut request = ours(submission("stats"));
    request.metadata_mut().insert("idempotency-key", "k".parse().unwrap());
    let by_grpc = client.submit_function(request).await.unwrap().into_inner();
    let body = serde_json::json!({ "name": "stats", "code": "print(1)\n" });
    let request = door
        .request(reqwest::Method::POST, "/functions")
        .header("Idempotency-Key", "k")
        .json(&body);
    let by_http = crate::door::answer(request).await;
    assert_eq!(by_http.text("/build_id"), by_grpc.build_id);
}
