//! `/builds/{id}/events` and `/tasks/{id}/events`: a build or a task as it goes, as server-sent events.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::{Stream, StreamExt as _};
use mecapy_bus::{Position, Words};

use super::request::{build_id, task_id};
use super::tasks::MAX_INLINE_RESULT;
use crate::api::{BuildEvent, TaskEvent};
use crate::{Caller, Error, Gateway};

/// Shorter than the idle time-outs of common proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a reader that comes again has been told.
const LAST_EVENT: &str = "last-event-id";

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
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, Error> {
    let (id, told) = (task_id(&id)?, told(&headers));
    let events = gateway.api.watch_task(&caller, id, MAX_INLINE_RESULT, told).await?;
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
        TaskEvent::Log(words) => {
            log_event(&words).json_data(serde_json::json!({ "text": words.text }))
        }
        TaskEvent::Ended(task) => Event::default().event("ended").json_data(task),
    }
}

/// With where it ends as its id, by which who comes again goes on from there.
pub(crate) fn log_event(words: &Words) -> Event {
    let event = Event::default().event("log");
    words.end.iter().fold(event, |event, end| event.id(end.to_string()))
}

pub(crate) fn told(headers: &HeaderMap) -> Position {
    let last = headers.get(LAST_EVENT).and_then(|last| last.to_str().ok());
    last.and_then(Position::parse).unwrap_or_default()
}
