//! Logs as JSON lines, traces over OTLP, metrics for Prometheus.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// Seconds. From a hit in a cache (1 ms) to the limit of a build (300 s).
const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0,
];

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What is logged, as `RUST_LOG` has it: `info`, `info,mecapy_builder=debug`.
    pub log: String,
    /// Where traces go, over gRPC: `http://collector:4317`. None: they are not sent.
    pub otlp_endpoint: Option<String>,
    /// The share of traces kept, from 0 to 1, decided where a trace begins.
    pub sample_ratio: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { log: "info".to_owned(), otlp_endpoint: None, sample_ratio: 1.0 }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("telemetry.log: {0}")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    #[error("telemetry.otlp_endpoint: {0}")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
}

/// What must be flushed at the end.
pub(crate) struct Telemetry {
    pub metrics: PrometheusHandle,
    tracer: Option<SdkTracerProvider>,
}

/// Makes ring the TLS provider of the process. More than once is fine.
pub fn install_tls() {
    // An error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Must run inside the runtime: the exporter needs it.
pub(crate) fn init(
    service: &'static str,
    replica: &str,
    options: &Options,
) -> Result<Telemetry, Error> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let filter = EnvFilter::try_new(&options.log)?;
    let tracer = match &options.otlp_endpoint {
        Some(endpoint) => {
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
            let resource = Resource::builder()
                .with_service_name(service)
                .with_attribute(KeyValue::new("service.namespace", "mecapy"))
                .with_attribute(KeyValue::new("service.instance.id", replica.to_owned()))
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .build();
            let sampler =
                Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.sample_ratio)));
            Some(
                SdkTracerProvider::builder()
                    .with_batch_exporter(exporter)
                    .with_resource(resource)
                    .with_sampler(sampler)
                    .build(),
            )
        }
        None => None,
    };
    // The exporter's own traffic makes no spans.
    let spans = tracer.as_ref().map(|tracer| {
        tracing_opentelemetry::layer().with_tracer(tracer.tracer("mecapy")).with_filter(
            EnvFilter::new("info,h2=off,hyper=off,tonic=off,tower=off,opentelemetry=off"),
        )
    });
    let logs = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_writer(std::io::stderr)
        .with_filter(filter);
    // A second init in one process is a test's: the first one stays.
    let _ = tracing_subscriber::registry().with(spans).with(logs).try_init();

    let metrics = PrometheusBuilder::new()
        .add_global_label("service", service)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), DURATION_BUCKETS)?
        .install_recorder()?;
    Ok(Telemetry { metrics, tracer })
}

impl Telemetry {
    /// Sends what is left, for at most `limit`.
    pub(crate) async fn flush(self, limit: Duration) {
        if let Some(tracer) = self.tracer {
            // The SDK blocks, and a collector that is gone must not keep the process.
            let flush = tokio::task::spawn_blocking(move || tracer.shutdown_with_timeout(limit));
            let _ = tokio::time::timeout(limit, flush).await;
        }
    }
}
