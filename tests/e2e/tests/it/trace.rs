//! One trace from the HTTP request through every service to the container's end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use mecapy_e2e::{Service, System};
use mecapy_testkit::{Infra, eventually};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{DOUBLE, PATIENCE};

/// What is kept of a span.
#[derive(Debug, Clone)]
struct Seen {
    service: String,
    name: String,
    trace: String,
    attributes: BTreeMap<String, String>,
}

/// Keeps what it receives over OTLP.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<Seen>>>);

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    attributes.into_iter().filter_map(|pair| Some((pair.key, text(pair.value?)?))).collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let of_service = texts(resource.resource.unwrap_or_default().attributes);
            let service = of_service.get("service.name").cloned().unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Seen {
                    service: service.clone(),
                    name: span.name,
                    trace: hex::encode(span.trace_id),
                    attributes: texts(span.attributes),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// And the configuration that leads to it.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        (collector, format!("[telemetry]\notlp_endpoint = {endpoint:?}\n"))
    }

    /// The services and names of the spans of one trace.
    fn spans(&self, trace: &str) -> BTreeSet<(String, String)> {
        let spans = self.0.lock().unwrap();
        spans
            .iter()
            .filter(|span| span.trace == trace)
            .map(|span| (span.service.clone(), span.name.clone()))
            .collect()
    }

    /// What a span of a trace says of itself; of several, any. Nothing where there is none.
    fn attributes(&self, trace: &str, name: &str) -> BTreeMap<String, String> {
        let spans = self.0.lock().unwrap();
        let found = spans.iter().find(|span| span.trace == trace && span.name == name);
        found.map(|span| span.attributes.clone()).unwrap_or_default()
    }

    /// Waits until one trace has all of these spans of a service; which.
    async fn trace_with(&self, service: &str, names: &[&str]) -> String {
        eventually(&format!("a trace of {service} with {names:?}"), PATIENCE, async || {
            let traces: BTreeSet<String> =
                self.0.lock().unwrap().iter().map(|span| span.trace.clone()).collect();
            let is_it = |trace: &String| {
                let spans = self.spans(trace);
                names.iter().all(|name| spans.contains(&(service.to_owned(), (*name).to_owned())))
            };
            traces.into_iter().find(is_it)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_the_request_to_the_containers_end() {
    let (collector, mut telemetry) = Collector::start().await;
    telemetry.push_str("[mirror]\nschedule = \"* * * * *\"\n");
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
    let body = json!({ "name": "traced", "code": DOUBLE, "requirements": "six==1.17.0\n" });
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

    // In the words of OpenTelemetry's conventions.
    let digest = ready["docker_image"].as_str().unwrap().rsplit_once('@').unwrap().1;
    let primary = system.primary.host.rsplit_once(':').unwrap().0;
    for (name, attributes) in [
        (
            "POST /functions",
            &[
                ("http.request.method", "POST"),
                ("http.route", "/functions"),
                ("http.response.status_code", "202"),
                ("url.path", "/functions"),
                ("url.scheme", "http"),
                ("server.address", "127.0.0.1"),
                ("network.protocol.version", "1.1"),
            ][..],
        ),
        (
            "process build.requested",
            &[
                ("messaging.system", "nats"),
                ("messaging.operation.type", "process"),
                ("messaging.destination.name", "build.requested"),
            ],
        ),
        (
            "PUT manifest_put",
            &[
                ("http.request.method", "PUT"),
                ("http.response.status_code", "201"),
                ("server.address", primary),
            ],
        ),
        ("run", &[("oci.manifest.digest", digest)]),
    ] {
        let said = collector.attributes(trace, name);
        for (key, value) in attributes {
            assert_eq!(
                said.get(*key).map(String::as_str),
                Some(*value),
                "{name}: {key} in {said:?}"
            );
        }
    }

    // A tick of a schedule begins a trace, and what comes of it is in it.
    let scheduled = collector
        .trace_with("mirror", &["tick", "publish mirror.requested", "process mirror.requested"])
        .await;
    let tick = collector.attributes(&scheduled, "tick");
    assert_eq!(tick.get("schedule.expression").map(String::as_str), Some("* * * * *"));

    // The same from what the services recorded, in the log, and beside the metrics.
    let build = ready["build_id"].as_str().unwrap();
    let recorded = system.api.get(&format!("/builds/{build}/trace")).await.unwrap();
    assert_eq!(recorded["trace_id"], trace);
    let names = names(&recorded);
    let expected = [
        "queue",
        "build",
        "validate",
        "lock",
        "dependency image",
        "push",
        "scan",
        "publish",
        "copy",
    ];
    for name in expected {
        assert!(names.contains(&name), "no {name} in {recorded:#}");
    }
    let spans = collector.spans(trace);
    for (service, name) in [
        ("builder", "validate"),
        ("builder", "push"),
        ("publisher", "copy"),
        ("builder", "PUT manifest_put"),
    ] {
        assert!(spans.contains(&(service.to_owned(), name.to_owned())), "no {name} in {spans:?}");
    }
    let task = ended["task_id"].as_str().unwrap();
    let recorded = system.api.get(&format!("/tasks/{task}/trace")).await.unwrap();
    assert_eq!(recorded["trace_id"], trace);
    assert_eq!(self::names(&recorded), ["queued", "fetched", "started", "ran", "stored"]);
    let shown = system.mecapy(&["trace", build]).await.unwrap();
    assert!(shown.contains(trace), "{shown}");
    assert!(shown.contains("validate") && shown.contains('█'), "{shown}");

    let id = format!("\"trace_id\":\"{trace}\"");
    let built = |log: &String| log.lines().any(|line| line.contains(&id) && line.contains(build));
    assert!(built(&system.log(Service::Builder)), "{}", system.log(Service::Builder));
    let metrics = reqwest::Client::new()
        .get(format!("http://{}/metrics", system.admin_address(Service::Scanner)))
        .header("accept", "application/openmetrics-text; version=1.0.0")
        .send()
        .await
        .unwrap();
    assert!(metrics.headers()["content-type"].to_str().unwrap().contains("openmetrics"));
    let metrics = metrics.text().await.unwrap();
    let exemplar = format!("# {{trace_id=\"{trace}\"");
    let of_the_stage = |line: &str| {
        line.starts_with("mecapy_stage_duration_seconds_bucket") && line.contains(&exemplar)
    };
    assert!(metrics.lines().any(of_the_stage), "{metrics}");
}

fn names(waterfall: &serde_json::Value) -> Vec<&str> {
    let spans = waterfall["spans"].as_array().unwrap();
    spans.iter().map(|span| span["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_sampled_what_failed_is_kept() {
    let (collector, mut telemetry) = Collector::start().await;
    telemetry.push_str("sample_ratio = 0.0\n");
    let system = System::start_with(Infra::shared().await, &telemetry).await.unwrap();
    let trace_of = async |code: &str, status: &str| {
        let function = system.api.submit("sampled", code, "").await.unwrap();
        let ended = system.api.ended(&function, PATIENCE).await.unwrap();
        assert_eq!(ended["status"], status, "{ended}");
        let build = ended["build_id"].as_str().unwrap();
        let recorded = system.api.get(&format!("/builds/{build}/trace")).await.unwrap();
        recorded["trace_id"].as_str().unwrap().to_owned()
    };
    let good = trace_of(DOUBLE, "ready").await;
    let bad = trace_of("def broken(:\n", "failed").await;
    let failed = ("builder".to_owned(), "process build.requested".to_owned());
    let step = ("builder".to_owned(), "validate".to_owned());
    eventually("what failed was received", PATIENCE, async || {
        let spans = collector.spans(&bad);
        (spans.contains(&failed) && spans.contains(&step)).then_some(())
    })
    .await;
    let of_others = |spans: BTreeSet<(String, String)>| {
        spans.into_iter().filter(|(service, _)| service != "builder").collect::<Vec<_>>()
    };
    assert_eq!(of_others(collector.spans(&bad)), [], "the other services had no part in it");
    assert_eq!(collector.spans(&good), BTreeSet::new(), "what went well is not kept");
}
