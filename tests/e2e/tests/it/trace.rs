//! One trace from the HTTP request through every service to the container's end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use mecapy_e2e::System;
use mecapy_testkit::{Infra, eventually};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{DOUBLE, PATIENCE};

/// Keeps (service, span name, trace id) of what it receives over OTLP.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, String, String)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = attributes
                .into_iter()
                .filter(|attribute| attribute.key == "service.name")
                .find_map(|attribute| match attribute.value?.value? {
                    Value::StringValue(name) => Some(name),
                    _ => None,
                })
                .unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push((service.clone(), span.name, hex::encode(span.trace_id)));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// The services and names of the spans of one trace.
    fn spans(&self, trace: &str) -> BTreeSet<(String, String)> {
        let spans = self.0.lock().unwrap();
        spans
            .iter()
            .filter(|(_, _, id)| id == trace)
            .map(|(service, name, _)| (service.clone(), name.clone()))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_the_request_to_the_containers_end() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let telemetry = format!("[telemetry]\notlp_endpoint = {endpoint:?}\n");
    let system = System::start_with(Infra::shared().await, &telemetry).await.unwrap();

    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let post = |path: String, body| {
        system
            .api
            .request(Method::POST, &path)
            .header("traceparent", traceparent.clone())
            .json(&body)
            .send()
    };
    let body = json!({ "name": "traced", "code": DOUBLE });
    let function = post("/functions".to_owned(), body).await.unwrap().json().await.unwrap();
    let ready = system.api.ended(&function, PATIENCE).await.unwrap();
    assert_eq!(ready["status"], "ready", "{ready}");
    let path = format!("/functions/{}/tasks", ready["function_id"]);
    let task = post(path, json!({ "inputs": { "n": 1 } })).await.unwrap().json().await.unwrap();
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    assert_eq!(ended["status"], "succeeded", "{ended}");

    let expected = [
        ("gateway", "POST /functions"),
        ("gateway", "publish build.requested"),
        ("builder", "process build.requested"),
        ("builder", "publish build.done"),
        ("scanner", "process build.done"),
        ("scanner", "publish scan.done"),
        ("publisher", "process scan.done"),
        ("publisher", "publish push.done"),
        ("gateway", "publish task.dispatch"),
        ("worker", "process task.dispatch"),
        ("worker", "publish task.done"),
    ];
    eventually("the whole trace was received", PATIENCE, async || {
        let spans = collector.spans(trace);
        let whole = expected
            .iter()
            .all(|(service, name)| spans.contains(&((*service).to_owned(), (*name).to_owned())));
        if !whole {
            eprintln!("so far: {spans:?}");
        }
        whole.then_some(())
    })
    .await;
}
