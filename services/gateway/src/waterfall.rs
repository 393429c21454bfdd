//! How a build or a task went, as a waterfall: its stages and their steps, with where each begins and how long it takes.
//! What the terminal, the console and the API show is this one. Pure: rows in, spans out.

mod build;
mod task;

use chrono::{DateTime, Utc};
use serde::Serialize;

/// A build or a task from its request to its end, or to now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waterfall {
    /// "build", "task"
    pub kind: &'static str,
    pub id: String,
    /// The state that the build or the task is in.
    pub status: &'static str,
    /// What a trace viewer finds it by. None: spans were not recorded.
    pub trace_id: Option<String>,
    /// Of the request.
    pub started_at: DateTime<Utc>,
    /// None: it goes on.
    pub ended_at: Option<DateTime<Utc>>,
    pub duration_ms: f64,
    /// A stage, then its steps, then the next stage, as they began.
    pub spans: Vec<Span>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Span {
    pub name: String,
    /// Empty: nobody has it in hand.
    pub service: String,
    /// 0: a stage; 1: a step of the stage above it.
    pub depth: u8,
    /// From the request on.
    pub offset_ms: f64,
    /// To now where it goes on.
    pub duration_ms: f64,
    pub status: Status,
    /// Of a build: which delivery of the message; of a task: which attempt. From 1.
    pub attempt: u32,
    /// Where it is part of another trace than the whole: what was a dead letter is tried again in a trace of its own.
    pub trace_id: Option<String>,
    pub worker: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Done,
    /// It goes on.
    Running,
    Failed,
    /// The scan found too much.
    Rejected,
    /// It failed for now, and was tried again.
    Retried,
    /// It was tried again by another replica, since its own ended.
    HandedBack,
    /// It was given up: an operator has to look.
    DeadLettered,
    /// Nobody knows how it ended: its worker died.
    Lost,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Retried => "retried",
            Self::HandedBack => "handed back",
            Self::DeadLettered => "dead letter",
            Self::Lost => "lost",
        }
    }
}

impl Waterfall {
    /// The clocks of services may differ: nothing is after the end.
    fn fit(mut self) -> Self {
        for span in &mut self.spans {
            span.offset_ms = span.offset_ms.min(self.duration_ms);
            span.duration_ms = span.duration_ms.min(self.duration_ms - span.offset_ms);
        }
        self
    }

    /// Where a span begins and how wide it is, in percent of the whole.
    pub fn share(&self, span: &Span) -> (f64, f64) {
        if self.duration_ms <= 0.0 {
            return (0.0, 100.0);
        }
        let percent = |ms: f64| (ms / self.duration_ms * 100.0).clamp(0.0, 100.0);
        let left = percent(span.offset_ms);
        (left, percent(span.duration_ms).min(100.0 - left))
    }
}

/// Times by their distance from the request.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: DateTime<Utc>,
    now: DateTime<Utc>,
}

impl Clock {
    /// Nothing is before the request.
    fn offset(self, at: DateTime<Utc>) -> f64 {
        millis(self.start, at)
    }

    /// A stage that nothing else is known of.
    fn span(
        self,
        name: &str,
        service: &str,
        from: DateTime<Utc>,
        to: Option<DateTime<Utc>>,
    ) -> Span {
        let end = to.unwrap_or(self.now);
        Span {
            name: name.to_owned(),
            service: service.to_owned(),
            depth: 0,
            offset_ms: self.offset(from),
            duration_ms: millis(from.max(self.start), end),
            status: if to.is_some() { Status::Done } else { Status::Running },
            attempt: 1,
            trace_id: None,
            worker: None,
        }
    }
}

fn millis(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).num_microseconds().map_or(0.0, |micros| micros.max(0) as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_within_the_whole() {
        let at = DateTime::UNIX_EPOCH;
        let clock = Clock { start: at, now: at };
        let mut waterfall = Waterfall {
            kind: "task",
            id: String::new(),
            status: "running",
            trace_id: None,
            started_at: at,
            ended_at: None,
            duration_ms: 200.0,
            spans: Vec::new(),
        };
        let span = |offset_ms, duration_ms| Span {
            offset_ms,
            duration_ms,
            ..clock.span("x", "", at, None)
        };
        assert_eq!(waterfall.share(&span(50.0, 100.0)), (25.0, 50.0));
        assert_eq!(waterfall.share(&span(150.0, 100.0)), (75.0, 25.0));
        assert_eq!(waterfall.share(&span(300.0, 100.0)), (100.0, 0.0));
        waterfall.duration_ms = 0.0;
        assert_eq!(waterfall.share(&span(0.0, 0.0)), (0.0, 100.0));
    }
}
