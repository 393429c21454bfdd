//! One trace over every event: W3C trace context in and out of headers.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::envelope::TRACEPARENT;

/// The context that a `traceparent` stands for.
fn context(traceparent: &str) -> Context {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&carrier))
}

/// Makes `span` a child of the remote span. Before it is entered.
pub(crate) fn set_parent(span: &Span, traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent {
        // An error says that spans are not recorded here; the context is passed on all the same.
        let _ = span.set_parent(context(traceparent));
    }
}

/// The `traceparent` of a span, or `otherwise` where spans are not recorded.
pub(crate) fn traceparent(span: &Span, otherwise: Option<&str>) -> Option<String> {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return otherwise.map(str::to_owned);
    }
    let mut carrier = HashMap::new();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut carrier)
    });
    carrier.remove(TRACEPARENT)
}
