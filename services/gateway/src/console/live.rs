//! What tells a page that something has changed, and the lines of a log as they come. A page then looks again: what
//! there is to see is made in one place.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _, stream};
use mecapy_bus::Position;
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::problem::Answer;
use super::text;
use crate::Gateway;
use crate::api::{BuildEvent, Session, TaskEvent};
use crate::http::{build_id, log_event, task_id, told};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Changes within this time are one.
const GATHER: Duration = Duration::from_secs(1);
/// What no event tells of is seen by then.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A browser then asks again, and is asked again who it is.
const STREAM_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Browsers drop events without data.
fn changed() -> Event {
    Event::default().event("changed").data("1")
}

/// The browser must not ask again.
fn end() -> Event {
    Event::default().event("end").data("1")
}

/// As JSON: a line may hold what can't stand in an event.
fn piece(text: &str) -> String {
    serde_json::Value::String(text::piece(text)).to_string()
}

fn answer(events: impl Stream<Item = Event> + Send + 'static, session: &Session) -> Response {
    let left = (session.expires_at - chrono::Utc::now()).to_std().unwrap_or_default();
    let until = sleep_until(Instant::now() + left.min(STREAM_LIMIT));
    let events = events.take_until(until).map(Ok::<_, Infallible>);
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// Anything that happens to builds and tasks.
pub(super) async fn anything(State(gateway): State<Gateway>, session: Session) -> Response {
    let (any, shutdown) = (gateway.api.changes(), gateway.api.shutdown());
    let events = stream::unfold((any, shutdown), |(mut any, shutdown)| async move {
        tokio::select! {
            changed = any.changed() => changed.ok()?,
            () = sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return None,
        }
        sleep(GATHER).await;
        any.mark_unchanged();
        Some((changed(), (any, shutdown)))
    });
    answer(events, &session)
}

pub(super) async fn build(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
) -> Answer {
    let events = gateway.api.watch(&session.caller, build_id(&id)?).await?;
    let events = events.flat_map(|event| {
        stream::iter(match event {
            BuildEvent::Status(_) => vec![changed()],
            BuildEvent::Log(text) => vec![Event::default().event("log").data(piece(&text))],
            BuildEvent::Ended(_) => vec![changed(), end()],
        })
    });
    Ok(answer(events, &session))
}

/// A page that was there before.
#[derive(Debug, Deserialize)]
pub(super) struct Again {
    /// The id of the last event that it got.
    after: Option<String>,
}

pub(super) async fn task(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
    Query(again): Query<Again>,
    headers: HeaderMap,
) -> Answer {
    // A stream that the browser itself opens again has the newer word in its header.
    let last = again.after.as_deref().and_then(Position::parse).unwrap_or_default();
    let told = last.max(told(&headers));
    let events = gateway.api.watch_task(&session.caller, task_id(&id)?, 0, told).await?;
    let events = events.flat_map(|event| {
        stream::iter(match event {
            TaskEvent::Status(_) => vec![changed()],
            TaskEvent::Log(words) => vec![log_event(&words).data(piece(&words.text))],
            TaskEvent::Ended(_) => vec![changed(), end()],
        })
    });
    Ok(answer(events, &session))
}
