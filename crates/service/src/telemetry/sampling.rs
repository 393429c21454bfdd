//! Which traces are kept: a share of them and so many a second, decided where a trace begins, and whatever ended in an
//! error.
//!
//! What is not sampled is recorded all the same, and waits here until the part of its trace in this process has ended.
//! With an error among its spans the part is sent, else it is forgotten. Other processes decide on theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceId,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, ShouldSample, Span, SpanData, SpanProcessor,
};

use super::rate::Bucket;

/// Spans that wait for the end of their part, at most, over all traces. At one kilobyte each, one megabyte.
const MAX_WAITING: usize = 1024;
/// Spans that have begun and are known by their part.
const MAX_OPEN: usize = 4096;

/// Samples as its parent does, else a share of all up to a rate; the rest is recorded.
#[derive(Debug, Clone)]
pub(super) struct Share(Sampler);

impl Share {
    pub(super) fn new(ratio: f64, per_second: u32) -> Self {
        let bucket = Arc::new(Mutex::new(Bucket::new(per_second, Instant::now())));
        let beginning = Beginning { share: Sampler::TraceIdRatioBased(ratio), bucket };
        Self(Sampler::ParentBased(Box::new(beginning)))
    }
}

/// Of what begins here.
#[derive(Debug, Clone)]
struct Beginning {
    share: Sampler,
    bucket: Arc<Mutex<Bucket>>,
}

impl ShouldSample for Beginning {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.share.should_sample(parent, trace, name, kind, attributes, links);
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(result.decision, SamplingDecision::RecordAndSample)
            && !bucket.take(Instant::now())
        {
            result.decision = SamplingDecision::Drop;
        }
        result
    }
}

impl ShouldSample for Share {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.0.should_sample(parent, trace, name, kind, attributes, links);
        if matches!(result.decision, SamplingDecision::Drop) {
            result.decision = SamplingDecision::RecordOnly;
        }
        result
    }
}

/// Passes on what is sampled, and what failed.
#[derive(Debug)]
pub(super) struct KeepErrors<P> {
    next: P,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Of each open span: the first span of its part.
    firsts: HashMap<SpanId, SpanId>,
    /// By its first span: what has ended.
    parts: HashMap<SpanId, Part>,
    spans: usize,
}

#[derive(Debug, Default)]
struct Part {
    spans: Vec<SpanData>,
    failed: bool,
}

impl<P: SpanProcessor> KeepErrors<P> {
    pub(super) fn new(next: P) -> Self {
        Self { next, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, spans: Vec<SpanData>) {
        for mut span in spans {
            let context = &span.span_context;
            span.span_context = SpanContext::new(
                context.trace_id(),
                context.span_id(),
                context.trace_flags().with_sampled(true),
                context.is_remote(),
                context.trace_state().clone(),
            );
            self.next.on_end(span);
        }
    }
}

impl Waiting {
    fn begin(&mut self, span: SpanId, parent: &SpanContext) {
        if self.firsts.len() >= MAX_OPEN {
            return;
        }
        let is_first = !parent.is_valid() || parent.is_remote();
        // Of an unknown parent, its part is what is below it.
        let known = if is_first { None } else { self.firsts.get(&parent.span_id()).copied() };
        self.firsts.insert(span, known.unwrap_or(span));
    }

    /// What is to be kept, now that this one has ended.
    fn end(&mut self, span: SpanData) -> Vec<SpanData> {
        let id = span.span_context.span_id();
        let failed = matches!(span.status, Status::Error { .. });
        let alone = |span| if failed { vec![span] } else { Vec::new() };
        let Some(first) = self.firsts.remove(&id) else { return alone(span) };
        if first != id {
            // Its part has ended before it.
            if !self.firsts.contains_key(&first) {
                return alone(span);
            }
            let part = self.parts.entry(first).or_default();
            part.failed |= failed;
            if self.spans >= MAX_WAITING {
                return alone(span);
            }
            part.spans.push(span);
            self.spans += 1;
            return Vec::new();
        }
        let mut part = self.parts.remove(&first).unwrap_or_default();
        self.spans -= part.spans.len();
        if !failed && !part.failed {
            return Vec::new();
        }
        part.spans.push(span);
        part.spans
    }
}

impl<P: SpanProcessor> SpanProcessor for KeepErrors<P> {
    fn on_start(&self, span: &mut Span, parent: &Context) {
        if span.span_context().is_sampled() {
            self.next.on_start(span, parent);
        } else {
            let parent = parent.span();
            self.waiting().begin(span.span_context().span_id(), parent.span_context());
        }
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.next.on_end(span);
        } else {
            let kept = self.waiting().end(span);
            self.keep(kept);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceFlags, TraceState, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Sent(Arc<Mutex<Vec<SpanData>>>);

    impl Sent {
        fn names(&self) -> Vec<String> {
            self.0.lock().unwrap().iter().map(|span| span.name.to_string()).collect()
        }
    }

    impl SpanProcessor for Sent {
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

    fn tracer(ratio: f64) -> (SdkTracer, Sent, SdkTracerProvider) {
        limited(ratio, u32::MAX)
    }

    fn limited(ratio: f64, per_second: u32) -> (SdkTracer, Sent, SdkTracerProvider) {
        let sent = Sent::default();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(KeepErrors::new(sent.clone()))
            .with_sampler(Share::new(ratio, per_second))
            .build();
        (provider.tracer("test"), sent, provider)
    }

    /// A span in a span, and how each ends.
    fn whole(tracer: &SdkTracer, from: &Context, outer: Status, inner: Status) {
        let whole = from.with_span(tracer.start_with_context("whole", from));
        let mut part = tracer.start_with_context("part", &whole);
        part.set_status(inner);
        part.end();
        whole.span().set_status(outer);
        whole.span().end();
    }

    fn caller(sampled: bool) -> Context {
        let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        Context::new().with_remote_span_context(SpanContext::new(
            TraceId::from(7),
            SpanId::from(7),
            flags,
            true,
            TraceState::default(),
        ))
    }

    #[test]
    fn the_share_is_that_of_the_configuration_and_the_caller_decides_before_it() {
        let (none, sent, _provider) = tracer(0.0);
        whole(&none, &Context::new(), Status::Unset, Status::Unset);
        whole(&none, &caller(false), Status::Unset, Status::Unset);
        assert_eq!(sent.names(), [] as [&str; 0]);
        whole(&none, &caller(true), Status::Unset, Status::Unset);
        assert_eq!(sent.names(), ["part", "whole"]);

        let (all, sent, _provider) = tracer(1.0);
        whole(&all, &caller(false), Status::Unset, Status::Unset);
        assert_eq!(sent.names(), [] as [&str; 0]);
        whole(&all, &Context::new(), Status::Unset, Status::Unset);
        assert_eq!(sent.names(), ["part", "whole"]);

        let (half, sent, _provider) = tracer(0.5);
        for _ in 0..1000 {
            whole(&half, &Context::new(), Status::Unset, Status::Unset);
        }
        let kept = sent.names().len() / 2;
        assert!((350..650).contains(&kept), "{kept} of 1000 traces");
    }

    #[test]
    fn beyond_the_rate_what_begins_here_is_kept_only_where_it_failed() {
        let began = Instant::now();
        let (tracer, sent, _provider) = limited(1.0, 5);
        for _ in 0..1000 {
            whole(&tracer, &Context::new(), Status::Unset, Status::Unset);
        }
        let kept = sent.names().len() as f64 / 2.0;
        let most = 5.0 * (1.0 + began.elapsed().as_secs_f64());
        assert!((5.0..=most).contains(&kept), "{kept} of 1000 traces, at most {most}");

        sent.0.lock().unwrap().clear();
        for _ in 0..100 {
            whole(&tracer, &Context::new(), Status::error("it failed"), Status::Unset);
            whole(&tracer, &caller(true), Status::Unset, Status::Unset);
        }
        assert_eq!(sent.names().len(), 400, "what failed, and what others have begun to send");
    }

    #[test]
    fn a_part_with_an_error_is_kept_whole_wherever_the_error_is() {
        for (outer, inner) in [
            (Status::error("it failed"), Status::Unset),
            (Status::Unset, Status::error("a part of it failed")),
        ] {
            let (tracer, sent, _provider) = tracer(0.0);
            whole(&tracer, &Context::new(), Status::Unset, Status::Unset);
            whole(&tracer, &caller(false), outer, inner);
            assert_eq!(sent.names(), ["part", "whole"]);
            let spans = sent.0.lock().unwrap();
            assert!(spans.iter().all(|span| span.span_context.is_sampled()));
            assert!(spans.iter().all(|span| span.span_context.trace_id() == TraceId::from(7)));
            assert_eq!(spans[0].parent_span_id, spans[1].span_context.span_id());
        }
    }

    #[test]
    fn parts_of_one_trace_at_once_are_decided_one_by_one() {
        let (tracer, sent, _provider) = tracer(0.0);
        let from = caller(false);
        let one = from.with_span(tracer.start_with_context("one", &from));
        let other = from.with_span(tracer.start_with_context("other", &from));
        let mut part = tracer.start_with_context("part of one", &one);
        part.set_status(Status::error("it failed"));
        part.end();
        other.span().end();
        assert_eq!(sent.names(), [] as [&str; 0]);
        one.span().end();
        assert_eq!(sent.names(), ["part of one", "one"]);
    }

    #[test]
    fn what_waits_is_bounded_and_errors_are_kept_beyond_it() {
        let (tracer, sent, _provider) = tracer(0.0);
        let root = Context::new();
        let whole = root.with_span(tracer.start_with_context("whole", &root));
        for _ in 0..2 * MAX_WAITING {
            tracer.start_with_context("part", &whole).end();
        }
        let mut late = tracer.start_with_context("late", &whole);
        late.set_status(Status::error("it failed"));
        late.end();
        assert_eq!(sent.names(), ["late"], "sent at once, since it can't wait");
        whole.span().end();
        assert_eq!(sent.names().len(), 1 + MAX_WAITING + 1, "with what there was room for");

        // There is room again.
        sent.0.lock().unwrap().clear();
        let again = root.with_span(tracer.start_with_context("again", &root));
        tracer.start_with_context("part", &again).end();
        again.span().set_status(Status::error("it failed"));
        again.span().end();
        assert_eq!(sent.names(), ["part", "again"]);
    }

    #[test]
    fn what_ends_after_its_part_is_kept_if_it_failed() {
        let (tracer, sent, _provider) = tracer(0.0);
        let root = Context::new();
        let whole = root.with_span(tracer.start_with_context("whole", &root));
        let mut failed = tracer.start_with_context("failed late", &whole);
        let mut late = tracer.start_with_context("late", &whole);
        whole.span().end();
        late.end();
        failed.set_status(Status::error("it failed"));
        failed.end();
        assert_eq!(sent.names(), ["failed late"]);
    }

    #[test]
    fn spans_that_never_end_take_no_more_than_their_room() {
        let (tracer, sent, _provider) = tracer(0.0);
        let open: Vec<_> = (0..2 * MAX_OPEN).map(|_| tracer.start("open")).collect();
        let mut failed = tracer.start("failed");
        failed.set_status(Status::error("it failed"));
        failed.end();
        assert_eq!(sent.names(), ["failed"]);
        drop(open);
        let mut failed = tracer.start("failed again");
        failed.set_status(Status::error("it failed"));
        failed.end();
        assert_eq!(sent.names(), ["failed", "failed again"]);
    }
}
