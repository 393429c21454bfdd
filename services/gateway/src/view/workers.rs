//! Workers as callers see them.

use chrono::{DateTime, Utc};
use mecapy_bus::{DrainOrder, WorkerStatus};
use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct Worker {
    pub name: String,
    /// free, busy, draining, drained, stopping; away: nobody of this name lives.
    pub state: &'static str,
    /// Tasks that it has in hand.
    pub running: usize,
    /// Tasks that it runs at once, at most.
    pub slots: usize,
    pub version: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
    pub seen_at: Option<DateTime<Utc>>,
    /// It is to take no tasks.
    pub drain: Option<Drain>,
}

/// An operator's order.
#[derive(Debug, Clone, Serialize)]
pub struct Drain {
    pub by: String,
    pub at: DateTime<Utc>,
}

impl From<DrainOrder> for Drain {
    fn from(order: DrainOrder) -> Self {
        Self { by: order.by, at: order.at }
    }
}

impl Worker {
    pub(crate) fn that_lives(status: &WorkerStatus, order: Option<DrainOrder>) -> Self {
        let state = match status.state() {
            // It has not heard of it yet.
            "free" | "busy" if order.is_some() => "draining",
            state => state,
        };
        Self {
            name: status.name.clone(),
            state,
            running: status.running,
            slots: status.slots,
            version: Some(status.version.clone()),
            started_at: Some(status.started_at),
            seen_at: Some(status.seen_at),
            drain: order.map(Drain::from),
        }
    }

    pub(crate) fn that_is_away(order: DrainOrder) -> Self {
        Self {
            name: order.worker.clone(),
            state: "away",
            running: 0,
            slots: 0,
            version: None,
            started_at: None,
            seen_at: None,
            drain: Some(order.into()),
        }
    }
}
