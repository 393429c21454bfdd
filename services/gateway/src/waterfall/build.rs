//! The waterfall of a build: the stages that services noted, and between and after them what its row says.

use chrono::{DateTime, Utc};
use mecapy_store::BuildState;
use mecapy_store::builds::Build;
use mecapy_store::stages::{Outcome, Stage};

use super::{Clock, Span, Status, Waterfall, millis};

impl Waterfall {
    /// `trace` is that of the request.
    pub(crate) fn of_build(
        build: &Build,
        trace: Option<&str>,
        mut stages: Vec<Stage>,
        now: DateTime<Utc>,
    ) -> Self {
        let clock = Clock { start: build.requested_at, now };
        stages.sort_by_key(|stage| stage.started_at);
        let newest = stages.last().and_then(|stage| stage.trace_id.as_deref());
        let trace = trace.or(newest).map(str::to_owned);
        let mut groups: Vec<Vec<Span>> =
            stages.iter().map(|stage| noted(clock, stage, trace.as_deref())).collect();
        groups.extend(unnoted(clock, build, &stages).into_iter().map(|span| vec![span]));
        groups.push(vec![queue(clock, build, &stages)]);
        groups.sort_by(|one, other| begin(one).total_cmp(&begin(other)));
        let mut spans: Vec<Span> = groups.into_iter().flatten().collect();
        tell_the_end(build.state, &mut spans);
        Self {
            kind: "build",
            id: build.id().to_string(),
            status: build.state.as_str(),
            trace_id: trace,
            started_at: build.requested_at,
            ended_at: build.ended_at,
            duration_ms: millis(build.requested_at, build.ended_at.unwrap_or(now)),
            spans,
        }
        .fit()
    }
}

fn begin(group: &[Span]) -> f64 {
    group.first().map_or(0.0, |span| span.offset_ms)
}

/// A stage that was noted, with its steps.
fn noted(clock: Clock, stage: &Stage, trace: Option<&str>) -> Vec<Span> {
    let attempt = u32::try_from(stage.delivery).unwrap_or(u32::MAX);
    let other_trace = stage.trace_id.clone().filter(|own| Some(own.as_str()) != trace);
    let whole = Span {
        status: match stage.outcome {
            Outcome::Done => Status::Done,
            Outcome::Retried => Status::Retried,
            Outcome::DeadLettered => Status::DeadLettered,
            Outcome::HandedBack => Status::HandedBack,
        },
        attempt,
        trace_id: other_trace.clone(),
        ..clock.span(&stage.name, &stage.service, stage.started_at, Some(stage.ended_at))
    };
    let steps = stage.steps.iter().map(|step| Span {
        depth: 1,
        status: if step.failed { Status::Failed } else { Status::Done },
        attempt,
        trace_id: other_trace.clone(),
        ..clock.span(&step.name, &stage.service, step.started_at, Some(step.ended_at))
    });
    std::iter::once(whole).chain(steps).collect()
}

/// Until a builder takes it.
fn queue(clock: Clock, build: &Build, stages: &[Stage]) -> Span {
    let taken = stages.first().map(|stage| stage.started_at).or(build.started_at);
    clock.span("queue", "", build.requested_at, taken.or(build.ended_at))
}

/// Stages that the row tells of and nobody noted: the one that goes on, or those of a time before stages were noted.
fn unnoted(clock: Clock, build: &Build, stages: &[Stage]) -> Vec<Span> {
    let published = build.ended_at.filter(|_| build.state == BuildState::Ready);
    [
        ("build", "builder", build.started_at, build.built_at),
        ("scan", "scanner", build.built_at, build.scanned_at),
        // One that is rejected is not published.
        (
            "publish",
            "publisher",
            build.scanned_at.filter(|_| build.state != BuildState::Rejected),
            published,
        ),
    ]
    .into_iter()
    .filter_map(|(name, service, from, to)| {
        let of_it = || stages.iter().filter(|stage| stage.name == name);
        if of_it().any(|stage| stage.outcome == Outcome::Done) {
            return None;
        }
        let last_try = of_it().map(|stage| stage.ended_at).max();
        let from = from.max(from.and(last_try))?;
        Some(clock.span(name, service, from, to.or(build.ended_at)))
    })
    .collect()
}

/// The stage in which it ended says how.
fn tell_the_end(state: BuildState, spans: &mut [Span]) {
    let status = match state {
        BuildState::Failed => Status::Failed,
        BuildState::Rejected => Status::Rejected,
        _ => return,
    };
    let last = spans.iter_mut().rev().find(|span| span.depth == 0);
    if let Some(last) = last.filter(|last| last.status == Status::Done) {
        last.status = status;
    }
}
