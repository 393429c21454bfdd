//! A log line: JSON, with the ids of the trace and the span that it belongs to.

use std::fmt;
use std::sync::{Arc, OnceLock};

use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use tracing::dispatcher::WeakDispatch;
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Asks what records the spans for their ids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids(Arc<OnceLock<WeakDispatch>>);

impl<S: Subscriber> Layer<S> for Ids {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        let _ = self.0.set(dispatch.downgrade());
    }
}

impl Ids {
    /// None: there is no span now, or spans are not recorded.
    fn now(&self) -> Option<SpanContext> {
        let dispatch = self.0.get()?.upgrade()?;
        let current = dispatch.current_span();
        let context = tracing_opentelemetry::get_otel_context(current.id()?, &dispatch)?;
        let span = context.span().span_context().clone();
        span.is_valid().then_some(span)
    }
}

/// The lines of `json`, with `trace_id` and `span_id`.
#[derive(Debug)]
pub(super) struct LogLine {
    pub json: Format<Json>,
    pub ids: Ids,
}

impl<S, N> FormatEvent<S, N> for LogLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(ids) = self.ids.now() else {
            return self.json.format_event(ctx, writer, event);
        };
        let mut line = String::new();
        self.json.format_event(ctx, Writer::new(&mut line), event)?;
        match line.trim_end().strip_suffix('}') {
            Some(object) => writeln!(
                writer,
                "{object},\"trace_id\":\"{}\",\"span_id\":\"{}\"}}",
                ids.trace_id(),
                ids.span_id()
            ),
            None => writer.write_str(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use serde_json::Value;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::log_layer;

    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn read(&self) -> Vec<Value> {
            let bytes = self.0.lock().unwrap();
            bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect()
        }
    }

    #[test]
    fn lines_carry_the_ids_of_their_trace_and_span() {
        let provider = SdkTracerProvider::builder().build();
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let lines = Lines::default();
        let to = lines.clone();
        let subscriber =
            tracing_subscriber::registry().with(spans).with(log_layer(move || to.clone()));
        let (outer, inner) = tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            let outer = tracing::info_span!("outer", build.id = "b");
            let inner = outer.in_scope(|| {
                tracing::info!(bytes = 3, "a {} in it", "}");
                let inner = tracing::info_span!("inner");
                inner.in_scope(|| tracing::warn!("within"));
                inner.context()
            });
            (outer.context(), inner)
        });
        use opentelemetry::trace::TraceContextExt as _;
        let id = |context: &opentelemetry::Context| {
            let span = context.span();
            let span = span.span_context();
            (span.trace_id().to_string(), span.span_id().to_string())
        };
        let of = |line: &Value| {
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            (text("trace_id"), text("span_id"))
        };
        let lines = lines.read();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].get("trace_id"), None);
        assert_eq!(of(&lines[1]), id(&outer));
        assert_eq!(of(&lines[2]), id(&inner));
        assert_eq!(id(&outer).0, id(&inner).0, "one trace");
        assert_ne!(id(&outer).1, id(&inner).1, "two spans");
        assert_eq!(lines[1]["message"], "a } in it");
        assert_eq!(lines[1]["bytes"], 3);
        assert_eq!(lines[1]["span"]["build.id"], "b");
    }

    #[test]
    fn without_traces_lines_are_as_they_were() {
        let lines = Lines::default();
        let to = lines.clone();
        let subscriber = tracing_subscriber::registry().with(log_layer(move || to.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("outer").in_scope(|| tracing::info!("within"));
        });
        let lines = lines.read();
        assert_eq!(
            (lines[0]["message"].as_str(), lines[0].get("trace_id")),
            (Some("within"), None)
        );
    }
}
