//! One trace over every event, retry and replay; and what is noted of a build.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chrono::Utc;
use mecapy_bus::{Outbox, Outgoing, dead_letters};
use mecapy_proto::BuildId;
use mecapy_proto::v1::{BuildDone, ScanDone};
use mecapy_store::stages::{self, Outcome};
use mecapy_store::{builds, functions};
use mecapy_testkit::eventually;
use opentelemetry::Context;
use opentelemetry::trace::{SpanKind, Status, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::chain::{Chain, PATIENCE};

/// The spans of all tests in this process.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Spans {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Spans {
    fn record() -> &'static Self {
        static SPANS: OnceLock<Spans> = OnceLock::new();
        SPANS.get_or_init(|| {
            opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
            let spans = Self::default();
            let provider = SdkTracerProvider::builder().with_span_processor(spans.clone()).build();
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
            let subscriber = tracing_subscriber::registry().with(layer);
            tracing::subscriber::set_global_default(subscriber).unwrap();
            // It lives as long as the process.
            std::mem::forget(provider);
            spans
        })
    }

    /// Those of a trace, or those with a link to it, by name.
    async fn wait_for(
        &self,
        name: &str,
        count: usize,
        which: impl Fn(&SpanData) -> bool,
    ) -> Vec<SpanData> {
        eventually(&format!("{count} spans {name}"), PATIENCE, async || {
            let spans = self.0.lock().unwrap();
            let found: Vec<_> =
                spans.iter().filter(|span| span.name == name && which(span)).cloned().collect();
            (found.len() >= count).then_some(found)
        })
        .await
    }
}

fn trace(number: u8) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e47{number:02x}")
}

fn traceparent(trace: &str) -> String {
    format!("00-{trace}-00f067aa0ba902b7-01")
}

fn is_of<'t>(trace: &'t str) -> impl Fn(&SpanData) -> bool + 't {
    move |span| span.span_context.trace_id().to_string() == trace
}

fn text(span: &SpanData, key: &str) -> String {
    let attribute = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
    attribute.map(|attribute| attribute.value.to_string()).unwrap_or_default()
}

async fn publish(chain: &Chain, build: &str, tag: &str, trace: &str) {
    let event = BuildDone { build_id: build.to_owned(), tag: tag.to_owned(), ..Default::default() };
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", traceparent(trace));
    let jetstream = async_nats::jetstream::new(chain.client.clone());
    let body = serde_json::to_vec(&event).unwrap().into();
    jetstream.publish_with_headers("build.done", headers, body).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn every_try_of_a_message_is_of_its_trace_and_says_how_it_ended() {
    let spans = Spans::record();
    let chain = Chain::start().await;
    let _replica = chain.replica().await;
    let trace = trace(1);
    publish(&chain, "b1", "fails-once", &trace).await;
    let tries = spans.wait_for("process build.done", 2, is_of(&trace)).await;
    let sent = spans.wait_for("publish scan.done", 1, is_of(&trace)).await;

    let (failed, done) = (&tries[0], &tries[1]);
    assert!(matches!(failed.status, Status::Error { .. }), "{:?}", failed.status);
    assert_eq!(text(failed, "error.type"), "transient");
    assert_eq!((done.status.clone(), text(done, "error.type").as_str()), (Status::Unset, ""));
    for span in &tries {
        assert_eq!(span.span_kind, SpanKind::Consumer);
        assert_eq!(span.parent_span_id.to_string(), "00f067aa0ba902b7");
        for (key, value) in [
            ("messaging.system", "nats"),
            ("messaging.operation.name", "process"),
            ("messaging.operation.type", "process"),
            ("messaging.destination.name", "build.done"),
            ("messaging.consumer.group.name", "scanner"),
            ("messaging.message.id", "build.done/b1"),
        ] {
            assert_eq!(text(span, key), value, "{key}");
        }
        let size = span.attributes.iter().find(|a| a.key.as_str() == "messaging.message.body.size");
        assert!(matches!(size.unwrap().value, opentelemetry::Value::I64(1..)), "{size:?}");
    }
    assert_eq!((text(failed, "delivery"), text(done, "delivery")), ("1".into(), "2".into()));
    assert_eq!(sent[0].span_kind, SpanKind::Producer);
    assert_eq!(text(&sent[0], "messaging.operation.type"), "send");
    assert_eq!(sent[0].parent_span_id, done.span_context.span_id());
}

#[tokio::test]
async fn a_replayed_dead_letter_is_a_trace_of_its_own_with_a_link_to_the_first() {
    let spans = Spans::record();
    let chain = Chain::start().await;
    let _replica = chain.replica().await;
    let first = trace(2);
    publish(&chain, "b1", "is-hopeless", &first).await;
    let letter = async |not: Option<u64>| {
        eventually("it is a dead letter", PATIENCE, async || {
            let letters = dead_letters::list(&chain.bus, 0, 10).await.unwrap();
            letters.into_iter().find(|letter| Some(letter.id) != not)
        })
        .await
    };
    let buried = letter(None).await;
    assert_eq!(buried.traceparent, Some(traceparent(&first)));

    let has_link = |span: &SpanData| {
        span.links.iter().any(|link| link.span_context.trace_id().to_string() == first)
    };
    let mut last = buried.id;
    for replays in 1..=2 {
        assert!(dead_letters::replay(&chain.bus, last).await.unwrap());
        let tries = spans.wait_for("process build.done", replays, has_link).await;
        let again = &tries[replays - 1];
        let trace = again.span_context.trace_id().to_string();
        assert_ne!(trace, first);
        let sent = spans.wait_for("publish build.done", replays, has_link).await;
        assert_eq!(sent[replays - 1].span_context.trace_id().to_string(), trace);
        assert_eq!(again.parent_span_id, sent[replays - 1].span_context.span_id());
        let buried = letter(Some(last)).await;
        assert!(buried.traceparent.unwrap().contains(&trace), "the trace in which it failed");
        last = buried.id;
    }
}

#[tokio::test]
async fn what_is_sent_again_goes_on_in_the_trace_of_its_request() {
    let spans = Spans::record();
    let chain = Chain::start().await;
    let shutdown = CancellationToken::new();
    let outbox = Outbox::start(chain.bus.clone(), chain.pool.clone(), "test", shutdown);
    let trace = trace(3);
    let event = ScanDone { build_id: "b1".to_owned(), ..Default::default() };
    let again = Outgoing::again(&event, Utc::now()).in_trace(Some(traceparent(&trace)));
    let mut transaction = chain.pool.begin().await.unwrap();
    let written = outbox.write(&mut transaction, again).await.unwrap();
    transaction.commit().await.unwrap();
    outbox.send(written).await;
    spans.wait_for("publish scan.done", 1, is_of(&trace)).await;
}

#[tokio::test]
async fn each_time_that_a_build_was_in_hand_is_noted_with_its_steps() {
    let spans = Spans::record();
    let chain = Chain::start().await;
    let _replica = chain.replica().await;
    let build = BuildId::new();
    let mut conn = chain.pool.acquire().await.unwrap();
    let owner = "acme".parse().unwrap();
    let function = functions::ensure(&mut conn, &owner, "stats").await.unwrap();
    let new = functions::NewVersion {
        python_version: "3.11".into(),
        base_variant: "slim".into(),
        requirements: String::new(),
        inputs_sha256: String::new(),
    };
    functions::add_version(&mut conn, function, 1, &new).await.unwrap();
    builds::create(&mut conn, build, function, 1).await.unwrap();
    drop(conn);

    let trace = trace(4);
    publish(&chain, &build.to_string(), "fails-once", &trace).await;
    let noted = eventually("both tries are noted", PATIENCE, async || {
        let (_, stages) = stages::get(&chain.pool, build).await.unwrap().unwrap();
        (stages.len() == 2).then_some(stages)
    })
    .await;
    let outcome = |outcome| noted.iter().find(|stage| stage.outcome == outcome).unwrap();
    let (retried, done) = (outcome(Outcome::Retried), outcome(Outcome::Done));
    assert_eq!((retried.delivery, done.delivery), (1, 2));
    for stage in &noted {
        assert_eq!((stage.name.as_str(), stage.service.as_str()), ("echo", "test"));
        assert_eq!(stage.trace_id.as_deref(), Some(trace.as_str()));
        assert!(stage.started_at <= stage.ended_at);
    }
    let steps = |stage: &stages::Stage| {
        stage.steps.iter().map(|step| (step.name.clone(), step.failed)).collect::<Vec<_>>()
    };
    assert_eq!(steps(retried), [("think".to_owned(), true)]);
    assert_eq!(steps(done), [("think".to_owned(), false)]);
    spans.wait_for("think", 2, is_of(&trace)).await;

    // The second time the inbox knows it.
    chain.publish(&build.to_string(), "").await;
    eventually("it was seen again", PATIENCE, async || chain.is_finished().await.then_some(()))
        .await;
    let (_, stages) = stages::get(&chain.pool, build).await.unwrap().unwrap();
    assert_eq!(stages.len(), 2);
}
