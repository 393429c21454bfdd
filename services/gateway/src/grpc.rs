//! gRPC: a thin shell over [`Api`](crate::Api), with the rules of HTTP.
//!
//! Metadata: `authorization` and `idempotency-key` as the headers of HTTP. An error's code and field are in the
//! metadata `mecapy-error-code` and `mecapy-error-field`.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures::{Stream, StreamExt as _};
use mecapy_proto::v1::build_event::Event;
use mecapy_proto::v1::gateway_server::{Gateway as Service, GatewayServer};
use mecapy_proto::{BuildId, ErrorCode, FunctionId, TaskId, v1};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::api::{BuildEvent, IdempotencyKey, TaskRequest};
use crate::validate::{MAX_INPUTS_BYTES, Submission};
use crate::{Caller, Error, Gateway, metric_definitions as metrics, trace};

const MAX_REQUEST_BYTES: usize = MAX_INPUTS_BYTES + 64 * 1024;
/// A result is part of its task up to this size; clients that expect more than 4 MiB must say so.
const MAX_RESULT_BYTES: u64 = 16 * 1024 * 1024;
const PING_EVERY: Duration = Duration::from_secs(20);
/// What a call may take beyond the time that it asked to be held.
const LIMIT: Duration = Duration::from_secs(45);

pub(crate) async fn serve(
    gateway: Gateway,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let service = GatewayServer::new(gateway)
        .max_decoding_message_size(MAX_REQUEST_BYTES)
        .max_encoding_message_size(
            usize::try_from(MAX_RESULT_BYTES).unwrap_or(usize::MAX) + 64 * 1024,
        );
    Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .add_service(service)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown.cancelled_owned(),
        )
        .await
        .map_err(Into::into)
}

impl Gateway {
    /// Makes the span and the metrics of a call, finds out who calls, and gives errors their form.
    async fn call<T, Fut>(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
        wait: Duration,
        work: impl FnOnce(Caller) -> Fut,
    ) -> Result<Response<T>, Status>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        let text = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok());
        let name = format!("mecapy.v1.Gateway/{method}");
        let span = tracing::info_span!(
            "call",
            otel.name = name,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "grpc",
            rpc.method = name,
            rpc.response.status_code = Empty,
            error.type = Empty,
        );
        trace::set_parent(&span, text("traceparent"), text("tracestate"));
        let began = Instant::now();
        let answer = async {
            let caller = self.tokens.caller(text("authorization"))?;
            match tokio::time::timeout(LIMIT + wait, work(caller)).await {
                Ok(answer) => answer,
                Err(_) => Err(Error::Unavailable("what this call needs", None)),
            }
        };
        let answer = mecapy_bus::caused_by(text("traceparent").map(str::to_owned), answer);
        let answer = answer.instrument(span.clone()).await;
        let answer = span.in_scope(|| answer.map(Response::new).map_err(|error| status(&error)));
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        let named = status_name(code);
        span.record("rpc.response.status_code", named);
        if is_ours(code) {
            span.record("otel.status_code", "ERROR").record("error.type", named);
        }
        span.in_scope(|| metrics::grpc_call(method, format!("{code:?}"), began.elapsed()));
        answer
    }
}

#[tonic::async_trait]
impl Service for Gateway {
    async fn submit_function(
        &self,
        request: Request<v1::SubmitFunctionRequest>,
    ) -> Result<Response<v1::Function>, Status> {
        let (metadata, _, request) = request.into_parts();
        let wait = seconds(request.wait_seconds);
        self.call("SubmitFunction", &metadata, wait, async |caller| {
            let key = idempotency_key(&metadata)?;
            let submission = Submission {
                name: request.name,
                code: request.code,
                requirements: request.requirements,
                python_version: or_default(request.python_version, "3.11"),
                base_variant: or_default(request.base_variant, "slim"),
            };
            Ok(self.api.submit(&caller, submission, key, wait).await?.into())
        })
        .await
    }

    async fn get_function(
        &self,
        request: Request<v1::GetFunctionRequest>,
    ) -> Result<Response<v1::Function>, Status> {
        let (metadata, _, request) = request.into_parts();
        let wait = seconds(request.wait_seconds);
        self.call("GetFunction", &metadata, wait, async |caller| {
            Ok(self.api.function(&caller, function_id(request.function_id)?, wait).await?.into())
        })
        .await
    }

    async fn list_functions(
        &self,
        request: Request<v1::ListFunctionsRequest>,
    ) -> Result<Response<v1::ListFunctionsResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.call("ListFunctions", &metadata, Duration::ZERO, async |caller| {
            let page = self.api.functions(&caller, request.page_size, &request.page_token).await?;
            Ok(v1::ListFunctionsResponse {
                functions: page.functions.into_iter().map(Into::into).collect(),
                next_page_token: page.next.unwrap_or_default(),
            })
        })
        .await
    }

    async fn delete_function(
        &self,
        request: Request<v1::GetFunctionRequest>,
    ) -> Result<Response<v1::DeleteFunctionResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.call("DeleteFunction", &metadata, Duration::ZERO, async |caller| {
            self.api.delete(&caller, function_id(request.function_id)?).await?;
            Ok(v1::DeleteFunctionResponse {})
        })
        .await
    }

    async fn rebuild_function(
        &self,
        request: Request<v1::GetFunctionRequest>,
    ) -> Result<Response<v1::Function>, Status> {
        let (metadata, _, request) = request.into_parts();
        let wait = seconds(request.wait_seconds);
        self.call("RebuildFunction", &metadata, wait, async |caller| {
            Ok(self.api.rebuild(&caller, function_id(request.function_id)?, wait).await?.into())
        })
        .await
    }

    type WatchBuildStream = Pin<Box<dyn Stream<Item = Result<v1::BuildEvent, Status>> + Send>>;

    async fn watch_build(
        &self,
        request: Request<v1::WatchBuildRequest>,
    ) -> Result<Response<Self::WatchBuildStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.call("WatchBuild", &metadata, Duration::ZERO, async |caller| {
            let id = build_id(&request.build_id)?;
            let events = self.api.watch(&caller, id).await?;
            Ok(Box::pin(events.map(|event| Ok(build_event(event)))) as Self::WatchBuildStream)
        })
        .await
    }

    async fn cancel_build(
        &self,
        request: Request<v1::CancelBuildRequest>,
    ) -> Result<Response<v1::Function>, Status> {
        let (metadata, _, request) = request.into_parts();
        let wait = seconds(request.wait_seconds);
        self.call("CancelBuild", &metadata, wait, async |caller| {
            Ok(self.api.cancel_build(&caller, build_id(&request.build_id)?, wait).await?.into())
        })
        .await
    }

    async fn run_task(
        &self,
        request: Request<v1::RunTaskRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let (metadata, _, request) = request.into_parts();
        let wait = seconds(request.wait_seconds);
        self.call("RunTask", &metadata, wait, async |caller| {
            let key = idempotency_key(&metadata)?;
            let task = TaskRequest {
                inputs: inputs(request.inputs_json)?,
                timeout_ms: request.timeout_ms,
                deadline: None,
            };
            let function = function_id(request.function_id)?;
            Ok(self
                .api
                .run_task(&caller, function, task, key, wait, MAX_RESULT_BYTES)
                .await?
                .into())
        })
        .await
    }

    async fn get_task(
        &self,
        request: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let (metadata, _, request) = request.into_parts();
        let wait = seconds(request.wait_seconds);
        self.call("GetTask", &metadata, wait, async |caller| {
            Ok(self
                .api
                .task(&caller, task_id(&request.task_id)?, wait, MAX_RESULT_BYTES)
                .await?
                .into())
        })
        .await
    }

    async fn cancel_task(
        &self,
        request: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let (metadata, _, request) = request.into_parts();
        let wait = seconds(request.wait_seconds);
        self.call("CancelTask", &metadata, wait, async |caller| {
            Ok(self.api.cancel(&caller, task_id(&request.task_id)?, wait).await?.into())
        })
        .await
    }
}

fn build_event(event: BuildEvent) -> v1::BuildEvent {
    let event = match event {
        BuildEvent::Status(state) => Event::Status(state.as_str().to_owned()),
        BuildEvent::Log(text) => Event::LogLine(text),
        BuildEvent::Ended(function) => Event::Ended((*function).into()),
    };
    v1::BuildEvent { event: Some(event) }
}

fn seconds(wait: u32) -> Duration {
    Duration::from_secs(wait.into()).min(crate::api::MAX_WAIT)
}

fn or_default(value: String, default: &str) -> String {
    if value.is_empty() { default.to_owned() } else { value }
}

fn function_id(id: i64) -> Result<FunctionId, Error> {
    FunctionId::new(id).map_err(|error| Error::field_is("function_id", error.to_string()))
}

fn build_id(id: &str) -> Result<BuildId, Error> {
    id.parse().map_err(|error| Error::field_is("build_id", format!("{error}")))
}

fn task_id(id: &str) -> Result<TaskId, Error> {
    id.parse().map_err(|error| Error::field_is("task_id", format!("{error}")))
}

fn inputs(json: String) -> Result<Option<Box<RawValue>>, Error> {
    if json.is_empty() {
        return Ok(None);
    }
    RawValue::from_string(json).map(Some).map_err(|error| {
        Error::refused(
            ErrorCode::InvalidInputs,
            "inputs_json",
            format!("inputs_json is not JSON: {error}"),
        )
    })
}

fn idempotency_key(metadata: &MetadataMap) -> Result<Option<IdempotencyKey>, Error> {
    let key = metadata.get("idempotency-key");
    key.map(|value| IdempotencyKey::parse(value.to_str().unwrap_or_default())).transpose()
}

/// A code as the conventions spell it.
fn status_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What of a server's answers is its own failure, and not the caller's.
fn is_ours(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn status(error: &Error) -> Status {
    error.log();
    let code = match error.status() {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT => Code::FailedPrecondition,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        status if status.is_client_error() => Code::InvalidArgument,
        _ => Code::Internal,
    };
    let mut metadata = MetadataMap::new();
    for (key, value) in
        [("mecapy-error-code", Some(error.code())), ("mecapy-error-field", error.field())]
    {
        // A field's name that can't be metadata is in the message.
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            metadata.insert(key, value);
        }
    }
    Status::with_metadata(code, error.to_string(), metadata)
}
