//! Exemplars: to each bucket of a duration the trace of one that fell into it, so that a slow one can be looked at.
//!
//! The exporter has no such thing, and its text format no place for it. So they are kept beside it, and where the
//! reader takes OpenMetrics its text is made of the exporter's.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::formatting::{
    sanitize_label_key, sanitize_label_value, sanitize_metric_name,
};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// A bucket's exemplar stays for so long: looking up the span for each value would cost more than it tells.
const LASTS: Duration = Duration::from_secs(1);

/// The exemplars of all histograms of durations. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Exemplars {
    service: &'static str,
    /// The upper bounds of the buckets; another bucket is above them.
    bounds: &'static [f64],
    series: Arc<Mutex<HashMap<Key, Arc<Buckets>>>>,
}

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    newest: Mutex<Vec<Option<Exemplar>>>,
}

#[derive(Debug, Clone)]
struct Exemplar {
    value: f64,
    span: SpanContext,
    at: SystemTime,
}

/// A recorder that keeps exemplars too.
#[derive(Debug)]
pub(super) struct WithExemplars<R> {
    pub recorder: R,
    pub exemplars: Exemplars,
}

struct Observed {
    histogram: Histogram,
    buckets: Arc<Buckets>,
}

impl Exemplars {
    pub(super) fn new(service: &'static str, bounds: &'static [f64]) -> Self {
        Self { service, bounds, series: Arc::default() }
    }

    fn buckets(&self, key: &Key) -> Arc<Buckets> {
        let mut series = lock(&self.series);
        if let Some(known) = series.get(key) {
            return Arc::clone(known);
        }
        let newest = Mutex::new(vec![None; self.bounds.len() + 1]);
        let buckets = Arc::new(Buckets { bounds: self.bounds, newest });
        series.insert(key.clone(), Arc::clone(&buckets));
        buckets
    }

    /// What the exporter said, as OpenMetrics 1.0 has it, with the exemplars.
    pub(crate) fn openmetrics(&self, text: &str) -> String {
        let exemplars = self.by_line();
        let mut open = String::with_capacity(text.len() + 128 * exemplars.len() + 8);
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(described) = line.strip_prefix("# ") {
                describe(&mut open, described);
                continue;
            }
            open.push_str(line);
            let exemplar = line.rsplit_once(' ').and_then(|(series, _)| exemplars.get(series));
            if let Some(Exemplar { value, span, at }) = exemplar {
                let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let _ = write!(
                    open,
                    " # {{trace_id=\"{}\",span_id=\"{}\"}} {value} {:.3}",
                    span.trace_id(),
                    span.span_id(),
                    at.as_secs_f64()
                );
            }
            open.push('\n');
        }
        open.push_str("# EOF\n");
        open
    }

    /// By the series of the bucket, as the exporter writes it.
    fn by_line(&self) -> HashMap<String, Exemplar> {
        let mut all = HashMap::new();
        for (key, buckets) in lock(&self.series).iter() {
            let mut labels = format!("service=\"{}\"", sanitize_label_value(self.service));
            for label in key.labels() {
                let (key, value) =
                    (sanitize_label_key(label.key()), sanitize_label_value(label.value()));
                let _ = write!(labels, ",{key}=\"{value}\"");
            }
            let name = sanitize_metric_name(key.name());
            for (bucket, exemplar) in lock(&buckets.newest).iter().enumerate() {
                let Some(exemplar) = exemplar else { continue };
                let bound =
                    self.bounds.get(bucket).map_or_else(|| "+Inf".to_owned(), f64::to_string);
                all.insert(format!("{name}_bucket{{{labels},le=\"{bound}\"}}"), exemplar.clone());
            }
        }
        all
    }
}

/// `HELP` and `TYPE`: a counter's name is without its suffix.
fn describe(open: &mut String, described: &str) {
    let mut words = described.splitn(3, ' ');
    let (Some(what), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
        return;
    };
    let (name, rest) = match (name.strip_suffix("_total"), what, rest) {
        (Some(name), _, rest) => (name, rest),
        (None, "TYPE", "counter") => (name, "unknown"),
        (None, _, rest) => (name, rest),
    };
    let _ = writeln!(open, "# {what} {name} {rest}");
}

impl HistogramFn for Observed {
    fn record(&self, value: f64) {
        self.histogram.record(value);
        self.buckets.observe(value);
    }
}

impl Buckets {
    fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        let now = SystemTime::now();
        let is_new =
            |exemplar: &Exemplar| now.duration_since(exemplar.at).is_ok_and(|since| since < LASTS);
        if lock(&self.newest).get(bucket).is_none_or(|newest| newest.as_ref().is_some_and(is_new)) {
            return;
        }
        let span = tracing::Span::current().context().span().span_context().clone();
        // Of what is not sent nothing can be looked at.
        if span.is_sampled()
            && let Some(newest) = lock(&self.newest).get_mut(bucket)
        {
            *newest = Some(Exemplar { value, span, at: now });
        }
    }
}

impl<R: Recorder> Recorder for WithExemplars<R> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.recorder.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.recorder.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.recorder.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.recorder.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.recorder.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let histogram = self.recorder.register_histogram(key, metadata);
        if !key.name().ends_with(super::DURATION) {
            return histogram;
        }
        let buckets = self.exemplars.buckets(key);
        Histogram::from_arc(Arc::new(Observed { histogram, buckets }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use metrics::{counter, describe_counter, gauge, histogram};
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const BOUNDS: &[f64] = &[0.005, 1.0];

    fn recorder() -> (WithExemplars<impl Recorder>, PrometheusHandle, Exemplars) {
        let recorder = PrometheusBuilder::new()
            .add_global_label("service", "builder")
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BOUNDS)
            .unwrap()
            .build_recorder();
        let handle = recorder.handle();
        let exemplars = Exemplars::new("builder", BOUNDS);
        (WithExemplars { recorder, exemplars: exemplars.clone() }, handle, exemplars)
    }

    /// Runs it in a span; says which.
    fn in_span(sampler: Sampler, work: impl FnOnce()) -> SpanContext {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(spans);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("work");
            span.in_scope(work);
            span.context().span().span_context().clone()
        })
    }

    fn took(seconds: f64) {
        histogram!("mecapy_took_seconds", "step" => "a \"b\"").record(seconds);
    }

    #[test]
    fn a_bucket_has_the_trace_of_a_value_in_it() {
        let (recorder, handle, exemplars) = recorder();
        let span = metrics::with_local_recorder(&recorder, || {
            in_span(Sampler::AlwaysOn, || {
                took(0.25);
                took(0.75);
                took(3.0);
            })
        });
        let text = exemplars.openmetrics(&handle.render());
        let ids = format!("# {{trace_id=\"{}\",span_id=\"{}\"}}", span.trace_id(), span.span_id());
        let series = "mecapy_took_seconds_bucket{service=\"builder\",step=\"a \\\"b\\\"\"";
        let line = |le: &str| {
            let start = format!("{series},le=\"{le}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("no {start} in {text}")).to_owned()
        };
        assert_eq!(line("0.005"), "0");
        assert!(line("1").starts_with(&format!("2 {ids} 0.25 ")), "{text}");
        assert!(line("+Inf").starts_with(&format!("3 {ids} 3 ")), "{text}");
    }

    #[test]
    fn what_is_not_sent_is_no_exemplar() {
        let (recorder, handle, exemplars) = recorder();
        metrics::with_local_recorder(&recorder, || {
            took(0.5);
            in_span(Sampler::AlwaysOff, || took(0.5));
        });
        let text = exemplars.openmetrics(&handle.render());
        assert!(!text.contains("trace_id"), "{text}");
        assert!(text.contains("le=\"1\"} 2\n"), "{text}");
    }

    #[test]
    fn the_text_is_openmetrics() {
        let (recorder, handle, exemplars) = recorder();
        metrics::with_local_recorder(&recorder, || {
            describe_counter!("mecapy_made_total", "What was made");
            counter!("mecapy_made_total").increment(2);
            counter!("mecapy_odd").increment(1);
            gauge!("mecapy_open").set(1.5);
            took(0.5);
        });
        let text = exemplars.openmetrics(&handle.render());
        for line in [
            "# HELP mecapy_made What was made",
            "# TYPE mecapy_made counter",
            "mecapy_made_total{service=\"builder\"} 2",
            "# TYPE mecapy_odd unknown",
            "# TYPE mecapy_open gauge",
            "mecapy_open{service=\"builder\"} 1.5",
            "# TYPE mecapy_took_seconds histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        assert!(text.ends_with("\n# EOF\n") && !text.contains("\n\n"), "{text}");
    }
}
