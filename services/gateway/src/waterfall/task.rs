//! The waterfall of a task, from its row: queued, fetched, started, ran, stored, and the attempts before that.

use chrono::{DateTime, Utc};
use mecapy_proto::v1::TaskTimings;
use mecapy_store::TaskState;
use mecapy_store::tasks::{PastAttempt, Task};

use super::{Clock, Span, Status, Waterfall, millis};

const SERVICE: &str = "worker";

impl Waterfall {
    /// `trace` is that of the request; `past` are the attempts before the newest, oldest first.
    pub(crate) fn of_task(
        task: &Task,
        trace: Option<&str>,
        past: &[PastAttempt],
        now: DateTime<Utc>,
    ) -> Self {
        let clock = Clock { start: task.created_at, now };
        let timings = task.timings.clone().and_then(|timings| serde_json::from_value(timings).ok());
        let timings: TaskTimings = timings.unwrap_or_default();
        let mut spans = Vec::new();
        let begins: Vec<DateTime<Utc>> =
            past.iter().map(|attempt| attempt.started_at).chain(task.started_at).collect();
        let first = begins.first().copied();
        spans.push(clock.span("queued", "", task.created_at, first.or(task.ended_at)));
        for (attempt, end) in past.iter().zip(begins.iter().skip(1)) {
            spans.push(Span {
                status: Status::Lost,
                attempt: attempt.attempt.unsigned_abs(),
                worker: attempt.worker.clone(),
                ..clock.span("attempt", SERVICE, attempt.started_at, Some(*end))
            });
        }
        if let Some(started_at) = task.started_at {
            let newest = Newest { clock, task, timings, started_at };
            spans.extend(newest.spans());
        }
        if past.is_empty()
            && let [queued, fetched, ..] = spans.as_mut_slice()
        {
            // What is fetched is fetched before the attempt is taken.
            queued.duration_ms = fetched.offset_ms;
        }
        tell_the_end(task.state, &mut spans);
        Self {
            kind: "task",
            id: task.id().to_string(),
            status: task.state.as_str(),
            trace_id: trace.map(str::to_owned),
            started_at: task.created_at,
            ended_at: task.ended_at,
            duration_ms: millis(task.created_at, task.ended_at.unwrap_or(now)),
            spans,
        }
        .fit()
    }
}

/// The newest attempt.
struct Newest<'a> {
    clock: Clock,
    task: &'a Task,
    timings: TaskTimings,
    started_at: DateTime<Utc>,
}

impl Newest<'_> {
    fn spans(&self) -> Vec<Span> {
        let claimed = self.clock.offset(self.started_at);
        let TaskTimings { fetch_ms, start_ms, run_ms, store_ms, .. } = self.timings;
        let has_run = fetch_ms + start_ms + run_ms + store_ms > 0;
        if !has_run {
            // It goes on, or it ended without a container.
            return vec![self.span("ran", claimed, self.until_its_end())];
        }
        let mut at = (claimed - fetch_ms as f64).max(0.0);
        let mut spans = vec![self.span("fetched", at, claimed - at)];
        at = claimed;
        for (name, took) in [("started", start_ms), ("ran", run_ms), ("stored", store_ms)] {
            spans.push(self.span(name, at, took as f64));
            at += took as f64;
        }
        spans
    }

    fn until_its_end(&self) -> f64 {
        millis(self.started_at, self.task.ended_at.unwrap_or(self.clock.now))
    }

    fn span(&self, name: &str, offset_ms: f64, duration_ms: f64) -> Span {
        Span {
            offset_ms,
            duration_ms,
            status: if self.task.state.is_final() { Status::Done } else { Status::Running },
            attempt: self.task.attempt.unsigned_abs(),
            worker: self.task.worker.clone(),
            ..self.clock.span(name, SERVICE, self.started_at, self.task.ended_at)
        }
    }
}

/// What ran says how it ended; where nothing did, what came last.
fn tell_the_end(state: TaskState, spans: &mut [Span]) {
    let status = match state {
        TaskState::Queued | TaskState::Running | TaskState::Succeeded => return,
        TaskState::Lost => Status::Lost,
        TaskState::Failed | TaskState::TimedOut | TaskState::Oom | TaskState::Cancelled => {
            Status::Failed
        }
    };
    let ran = spans.iter().rposition(|span| span.name == "ran").unwrap_or(spans.len() - 1);
    if let Some(span) = spans.get_mut(ran) {
        span.status = status;
    }
}
