//! `/builds/{id}/events` and `/tasks/{id}/events`: a build or a task as it goes, as server-sent events.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::{Stream, StreamExt as _};

use super::request::{build_id, task_id};
use super::tasks::MAX_INLINE_RESULT;
use crate::api::{BuildEvent, TaskEvent};
use crate::{Caller, Error, Gateway};

/// Shorter than the idle time-outs of common proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn events(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, Error> {
    let events = gateway.api.watch(&caller, build_id(&id)?).await?;
    Ok(Sse::new(events.map(event)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

pub(super) async fn task_events(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, Error> {
    let events = gateway.api.watch_task(&caller, task_id(&id)?, MAX_INLINE_RESULT).await?;
    Ok(Sse::new(events.map(task_event)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// All data is JSON: a line of a log may hold what can't stand in the data of an event.
fn event(event: BuildEvent) -> Result<Event, axum::Error> {
    match event {
        BuildEvent::Status(state) => Event::default()
            .event("status")
            .json_data(serde_json::json!({ "status": state.as_str() })),
        BuildEvent::Log(text) => {
            Event::default().event("log").json_data(serde_json::json!({ "text": text }))
        }
        BuildEvent::Ended(function) => Event::default().event("ended").json_data(function),
    }
}

fn task_event(event: TaskEvent) -> Result<Event, axum::Error> {
    match event {
        TaskEvent::Status(state) => Event::default()
            .event("status")
            .json_data(serde_json::json!({ "status": state.as_str() })),
        TaskEvent::Log(text) => {
            Event::default().event("log").json_data(serde_json::json!({ "text": text }))
        }
        TaskEvent::Ended(task) => Event::default().event("ended").json_data(task),
    }
}
