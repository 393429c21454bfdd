//! One trace over every event: W3C trace context in and out of headers.

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::envelope::TRACEPARENT;

tokio::task_local! {
    /// What the message that is handled came with.
    static CAUSE: Option<String>;
}

/// Runs `work` as what was caused by a message or a call with this `traceparent`.
pub fn caused_by<F: Future>(
    traceparent: Option<String>,
    work: F,
) -> impl Future<Output = F::Output> + use<F> {
    let traceparent = traceparent.filter(|traceparent| trace_id(traceparent).is_some());
    CAUSE.scope(traceparent, work)
}

/// The `traceparent` of what is done now; where spans are not recorded, that of what caused it.
pub fn current() -> Option<String> {
    let cause = CAUSE.try_with(Clone::clone).ok().flatten();
    traceparent(&Span::current(), cause.as_deref())
}

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

/// Links `span` to one of another trace.
pub(crate) fn link(span: &Span, traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent {
        span.add_link(context(traceparent).span().span_context().clone());
    }
}

/// The `traceparent` of a span, or `otherwise` where spans are not recorded.
pub(crate) fn traceparent(span: &Span, otherwise: Option<&str>) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return otherwise.map(str::to_owned);
    }
    Some(format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags()))
}

/// The id of the trace. None: it is no `traceparent`.
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let is_id = |part: &str, length| {
        part.len() == length
            && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && part.bytes().any(|byte| byte != b'0')
    };
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // A later version may have more parts.
    let is_whole =
        version.len() == 2 && flags.len() == 2 && (version != "00" || parts.next().is_none());
    (is_whole && is_id(trace, 32) && is_id(span, 16)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_no_traceparent_is_not_passed_on() {
        assert_eq!(trace_id(TRACEPARENT), Some(TRACE));
        assert_eq!(trace_id(&format!("cc{}-more", &TRACEPARENT[2..])), Some(TRACE));
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace_id(wrong), None, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn where_spans_are_not_recorded_the_cause_is_passed_on() {
        assert_eq!(current(), None);
        let cause = caused_by(Some(TRACEPARENT.to_owned()), async { current() }).await;
        assert_eq!(cause.as_deref(), Some(TRACEPARENT));
        assert_eq!(caused_by(Some("nonsense".to_owned()), async { current() }).await, None);
    }
}
