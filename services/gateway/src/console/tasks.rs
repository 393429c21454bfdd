//! Tasks, and one of them: from its request to its result.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect};
use maud::{Markup, html};
use mecapy_store::TaskState;
use mecapy_store::console::tasks::{Cache, Row};
use serde::Deserialize;

use super::builds::Noticed;
use super::layout::{self, Frame, Section};
use super::parts::{badge, button, choice, empty, facts, log, maybe_time, notice, table, time};
use super::plot;
use super::problem::Answer;
use super::session::Act;
use super::text;
use super::work::{
    List, Named, failure, function_cell, function_field, image, log_part, of_function, plain,
    state, state_cell,
};
use crate::api::{LogStream, Session, TaskDetails, TaskQuery};
use crate::http::task_id;
use crate::{Error, Gateway};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    state: String,
    cache: String,
    function: String,
    page_token: String,
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Answer {
    let function = of_function(&query.function)?;
    let state = TaskState::ALL.iter().find(|state| state.as_str() == query.state).copied();
    let cache = Cache::ALL.iter().find(|cache| cache.as_str() == query.cache).copied();
    let asked = TaskQuery { function, state, cache, page_token: query.page_token.clone() };
    let listed = gateway.api.list_tasks(&session.caller, &asked).await?;
    let number = function.map(|id| id.to_string()).unwrap_or_default();
    let states: Vec<&str> = TaskState::ALL.iter().map(|state| state.as_str()).collect();
    let caches: Vec<&str> = Cache::ALL.iter().map(|cache| cache.as_str()).collect();
    let list = List {
        session: &session,
        section: Section::Tasks,
        title: "Tasks",
        path: "/console/tasks",
        filters: &[
            ("function", &number),
            ("state", state.map_or("", TaskState::as_str)),
            ("cache", cache.map_or("", Cache::as_str)),
            ("page_token", &query.page_token),
        ],
        fields: html! {
            (choice("state", "State", &states, &query.state))
            (choice("cache", "Image", &caches, &query.cache))
            (function_field(&number))
        },
        table: rows(&listed.rows, true),
        next: listed.next.as_deref(),
    };
    Ok(list.page())
}

/// A table of tasks; with the function where they are of several.
pub(super) fn rows(tasks: &[Row], with_function: bool) -> Markup {
    let rows = html! {
        @for row in tasks {
            tr {
                th scope="row" { a href={ "/console/tasks/" (row.id) } { code { (row.id) } } }
                @if with_function { (function_cell(row.function_id, &row.name, &row.owner)) }
                (state_cell(row.state.as_str(), row.error_code.as_deref()))
                td { @if let Some(cache) = &row.cache { (badge(cache)) } }
                td { @if let Some(worker) = &row.worker { (text::line(worker)) } @if row.attempt > 1 { " attempt " (row.attempt) } }
                td { (time(row.created_at)) }
                td.number { @if let Some(started) = row.started_at { (text::between(row.created_at, started)) } }
                td.number { @if let Some((started, ended)) = row.started_at.zip(row.ended_at) { (text::between(started, ended)) } }
            }
        }
        @if tasks.is_empty() { (empty(8, "There is no such task.")) }
    };
    let headers: &[&str] = if with_function {
        &["Task", "Function", "State", "Image", "Worker", "Asked for", "Waited", "Took"]
    } else {
        &["Task", "State", "Image", "Worker", "Asked for", "Waited", "Took"]
    };
    table("tasks", "Tasks, the newest first", headers, &rows)
}

pub(super) async fn one(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
    Query(query): Query<Noticed>,
) -> Answer {
    let (caller, id) = (&session.caller, task_id(&id)?);
    let details = gateway.api.task_details(caller, id).await?;
    let state = details.task.state;
    let content = html! {
        (notice(&query.notice))
        (summary(&details))
        div #act data-part {
            @if !state.is_final() && caller.must_act().is_ok() {
                (button(&session, &format!("/console/tasks/{id}/cancel"), "Cancel this task"))
            }
        }
        (plot::waterfall(&details.waterfall))
        (failure("end", "How it ended", details.task.failure().as_ref(), details.task.exit_code))
        section #result data-part {
            @if state == TaskState::Succeeded {
                h2 { "Result" }
                @match &details.result {
                    Some(result) => (log("result-text", result, &format!("/console/tasks/{id}/result"))),
                    None => p { a href={ "/console/tasks/" (id) "/result" } { "The result, as a file" } },
                }
            }
        }
        (log_part(details.log.as_ref(), state.is_final(), &format!("/console/tasks/{id}/log")))
    };
    let title = format!("Task of {}", text::line(&details.function.name));
    let live = (!state.is_final()).then(|| format!("/console/events/tasks/{id}"));
    let frame = Frame { session: &session, section: Section::Tasks, title: &title, live };
    Ok(layout::page(&frame, &content))
}

fn summary(details: &TaskDetails) -> Markup {
    let (function, task) = (&details.function, &details.task);
    let end_is_asked_for = task.cancel_requested && !task.state.is_final();
    facts(
        "summary",
        &[
            ("State", state(task.state.as_str(), end_is_asked_for)),
            ("Task", html! { code { (task.id()) } }),
            (
                "Function",
                html! { a href={ "/console/functions/" (function.id) } { (text::line(&function.name)) } " of " (text::line(&function.owner)) },
            ),
            ("Asked for", time(task.created_at)),
            ("Started", maybe_time(task.started_at)),
            ("Ended", maybe_time(task.ended_at)),
            ("Attempt", html! { (task.attempt) }),
            ("Worker", html! { @if let Some(worker) = &task.worker { (text::line(worker)) } }),
            (
                "Image was",
                html! {
                    @match task.cache.as_deref() {
                        Some("HIT") => { (badge("HIT")) " there" }
                        Some("MISS") => { (badge("MISS")) " pulled from the primary registry" }
                        Some("FAILOVER") => { (badge("FAILOVER")) " pulled from the fallback registry" }
                        _ => "–",
                    }
                },
            ),
            ("Asked for the image", image(Some(&task.image))),
            ("Ran the digest", image(task.digest.as_deref())),
            (
                "Time limit",
                html! {
                    @if task.timeout_ms > 0 { (text::duration(task.timeout_ms as f64)) } @else { "the worker's" }
                },
            ),
        ],
    )
}

pub(super) async fn cancel(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    act: Act,
) -> Answer {
    let id = task_id(&id)?;
    gateway.api.cancel(&act.session.caller, id, Duration::ZERO).await?;
    Ok(Redirect::to(&format!("/console/tasks/{id}?notice=cancelled")).into_response())
}

/// A log or a result as it is.
pub(super) async fn text(
    State(gateway): State<Gateway>,
    session: Session,
    Path((id, name)): Named,
) -> Answer {
    let (caller, id) = (&session.caller, task_id(&id)?);
    let found = match name.as_str() {
        "log" => gateway.api.task_log(caller, id, LogStream::Both).await?,
        "result" => gateway.api.task_result(caller, id, Duration::ZERO).await?,
        _ => return Err(Error::NotFound("such text of this task".to_owned()).into()),
    };
    Ok(plain(found))
}
