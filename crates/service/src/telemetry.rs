//! Logs as JSON lines, traces over OTLP, metrics for Prometheus.

mod exemplars;
mod log_line;
mod rate;
mod sampling;

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use self::exemplars::{Exemplars, WithExemplars};
use self::log_line::{Ids, LogLine};
use self::sampling::{KeepErrors, Share};
use crate::ConfigError;

/// Seconds. From a hit in a cache (1 ms) to the limit of a build (300 s).
const DURATION_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0,
];

/// How the name of a histogram of durations ends.
const DURATION: &str = "_seconds";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What is logged, as `RUST_LOG` has it: `info`, `info,mecapy_builder=debug`.
    pub log: String,
    /// Where traces go, over gRPC: `http://collector:4317`. None, or empty: they are not sent.
    pub otlp_endpoint: Option<String>,
    /// The share of traces kept, from 0 to 1, decided where a trace begins. What ends in an error is kept in any case.
    pub sample_ratio: f64,
    /// Of these, as many as begin in this process in a second. What tracing costs is bounded by it.
    pub max_traces_per_second: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            otlp_endpoint: None,
            sample_ratio: 1.0,
            max_traces_per_second: 100,
        }
    }
}

impl Options {
    fn endpoint(&self) -> Option<&str> {
        self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty())
    }

    /// What types can't say.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: &str| Err(ConfigError::key(key, problem));
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return wrong("telemetry.sample_ratio", "must be from 0 (errors alone) to 1 (all)");
        }
        if self.max_traces_per_second == 0 {
            return wrong(
                "telemetry.max_traces_per_second",
                "must be at least 1; for errors alone, telemetry.sample_ratio is 0",
            );
        }
        match self.endpoint() {
            Some(url) if !url.starts_with("http://") => wrong(
                "telemetry.otlp_endpoint",
                "must be like http://collector:4317: a collector near by, which may send on over TLS",
            ),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("telemetry.log: {0}")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    #[error("telemetry.otlp_endpoint: {0}")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
    #[error("metrics: something else records them in this process")]
    Recorder,
}

/// What must be flushed at the end.
pub struct Telemetry {
    pub(crate) metrics: Metrics,
    tracer: Option<SdkTracerProvider>,
}

/// What `/metrics` shows. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    prometheus: PrometheusHandle,
    /// None: traces are not sent, and there is nothing to look at.
    exemplars: Option<Exemplars>,
}

impl Metrics {
    /// The text, and its content type. Exemplars are in OpenMetrics alone.
    pub(crate) fn render(&self, takes_openmetrics: bool) -> (&'static str, String) {
        self.prometheus.run_upkeep();
        let text = self.prometheus.render();
        match &self.exemplars {
            Some(exemplars) if takes_openmetrics => (
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                exemplars.openmetrics(&text),
            ),
            _ => ("text/plain; version=0.0.4", text),
        }
    }
}

/// Makes ring the TLS provider of the process. More than once is fine.
pub fn install_tls() {
    // An error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Once a process, and inside the runtime: the exporter needs it. [`crate::run`] does it; this is for programs that are
/// no service.
pub fn init(service: &'static str, replica: &str, options: &Options) -> Result<Telemetry, Error> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let filter = EnvFilter::try_new(&options.log)?;
    let tracer = match options.endpoint() {
        Some(endpoint) => {
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
            let resource = Resource::builder()
                .with_service_name(service)
                .with_attribute(KeyValue::new("service.namespace", "mecapy"))
                .with_attribute(KeyValue::new("service.instance.id", replica.to_owned()))
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .build();
            let batches = BatchSpanProcessor::builder(exporter).build();
            Some(
                SdkTracerProvider::builder()
                    .with_span_processor(KeepErrors::new(batches))
                    .with_resource(resource)
                    .with_sampler(Share::new(options.sample_ratio, options.max_traces_per_second))
                    .build(),
            )
        }
        None => None,
    };
    let spans = tracer.as_ref().map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer.tracer("mecapy"))
            // Of each span, what its name says already or nobody asks: they were half of what is sent.
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            // What is done now is asked of `tracing`; to know it twice is work at each entry of a span.
            .with_context_activation(false)
            .with_filter(spans_filter())
    });
    // Each layer has a filter: beside one without, `tracing` asks at each debug line of each library whether somebody wants
    // it. A second init in one process is a test's: the first one stays.
    let _ = tracing_subscriber::registry()
        .with(spans)
        .with(log_layer(std::io::stderr).with_filter(filter))
        .try_init();

    let recorder = PrometheusBuilder::new()
        .add_global_label("service", service)
        .set_buckets_for_metric(Matcher::Suffix(DURATION.to_owned()), DURATION_BUCKETS)?
        .build_recorder();
    let prometheus = recorder.handle();
    let exemplars = tracer.is_some().then(|| Exemplars::new(service, DURATION_BUCKETS));
    match exemplars.clone() {
        Some(exemplars) => {
            metrics::set_global_recorder(WithExemplars { recorder, exemplars })
                .map_err(|_| Error::Recorder)?;
        }
        None => metrics::set_global_recorder(recorder).map_err(|_| Error::Recorder)?,
    }
    Ok(Telemetry { metrics: Metrics { prometheus, exemplars }, tracer })
}

/// The exporter's own traffic makes no spans. Targets alone: unlike `EnvFilter`, nothing is looked up at each entry of a
/// span.
fn spans_filter() -> Targets {
    Targets::new().with_default(LevelFilter::INFO).with_targets(
        ["h2", "hyper", "tonic", "tower", "opentelemetry"].map(|target| (target, LevelFilter::OFF)),
    )
}

/// The log's lines, with the ids of their trace.
fn log_layer<S, W>(to: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let ids = Ids::default();
    let logs = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_writer(to)
        .map_event_format(|json| LogLine { json, ids: ids.clone() });
    ids.and_then(logs)
}

impl Telemetry {
    /// The metrics, as a scrape has them.
    pub fn exposition(&self) -> String {
        self.metrics.render(true).1
    }

    /// Sends what is left, for at most `limit`.
    pub async fn flush(self, limit: Duration) {
        if let Some(tracer) = self.tracer {
            // The SDK blocks, and a collector that is gone must not keep the process.
            let flush = tokio::task::spawn_blocking(move || tracer.shutdown_with_timeout(limit));
            let _ = tokio::time::timeout(limit, flush).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_logs_costs_no_question() {
        let of = |log: &str| {
            let logs = log_layer(std::io::sink).with_filter(EnvFilter::new(log));
            let spans: Option<Targets> = None;
            let spans = spans.map(|filter| tracing_opentelemetry::layer().with_filter(filter));
            tracing_subscriber::registry().with(spans).with(logs).max_level_hint()
        };
        assert_eq!(of("info"), Some(LevelFilter::INFO));
        assert_eq!(of("warn,mecapy_bus=debug"), Some(LevelFilter::DEBUG));
        let spans = tracing_opentelemetry::layer().with_filter(spans_filter());
        let logs = log_layer(std::io::sink).with_filter(EnvFilter::new("warn"));
        let both = tracing_subscriber::registry().with(spans).with(logs);
        assert_eq!(both.max_level_hint(), Some(LevelFilter::INFO));
    }

    #[test]
    fn what_can_not_be_is_refused_with_its_key() {
        let problem = |ratio, endpoint: Option<&str>| {
            let options = Options {
                sample_ratio: ratio,
                otlp_endpoint: endpoint.map(str::to_owned),
                ..Options::default()
            };
            options.validate().err().map(|error| error.to_string()).unwrap_or_default()
        };
        for (ratio, endpoint) in [(1.0, None), (0.0, Some("")), (0.25, Some("http://jaeger:4317"))]
        {
            assert_eq!(problem(ratio, endpoint), "");
        }
        for ratio in [-0.1, 1.1, f64::NAN] {
            assert!(problem(ratio, None).starts_with("telemetry.sample_ratio: "));
        }
        let none = Options { max_traces_per_second: 0, ..Options::default() };
        let problem_of_none = none.validate().unwrap_err().to_string();
        assert!(problem_of_none.starts_with("telemetry.max_traces_per_second: "));
        for endpoint in ["jaeger:4317", "https://collector.example"] {
            assert!(problem(1.0, Some(endpoint)).starts_with("telemetry.otlp_endpoint: "));
        }
    }
}
