//! Tasks, and one of them: from its request to its result.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Redirect};
use maud::{Markup, html};
use mecapy_store::TaskState;
use mecapy_store::console::tasks::{Cache, Row};
use serde::Deserialize;

use super::builds::Noticed;
use super::layout::{self, Frame, Section};
use super::parts::{
    badge, button, choice, empty, error_code, facts, log, maybe_time, notice, pager, table, time,
};
use super::plot;
use super::problem::Answer;
use super::session::Act;
use super::text;
use crate::api::{LogStream, Session, TaskDetails, TaskQuery};
use crate::http::{function_id, task_id};
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
    let function = match query.function.trim() {
        "" => None,
        number => Some(function_id(number)?),
    };
    let state = TaskState::ALL.iter().find(|state| state.as_str() == query.state).copied();
    let cache = Cache::ALL.iter().find(|cache| cache.as_str() == query.cache).copied();
    let asked = TaskQuery { function, state, cache, page_token: query.page_token.clone() };
    let listed = gateway.api.list_tasks(&session.caller, &asked).await?;
    let number = function.map(|id| id.to_string()).unwrap_or_default();
    let filters = [
        ("function", number.as_str()),
        ("state", state.map_or("", TaskState::as_str)),
        ("cache", cache.map_or("", Cache::as_str)),
        ("page_token", query.page_token.as_str()),
    ];
    let states: Vec<&str> = TaskState::ALL.iter().map(|state| state.as_str()).collect();
    let caches: Vec<&str> = Cache::ALL.iter().map(|cache| cache.as_str()).collect();
    let content = html! {
        form.filters method="get" action="/console/tasks" role="search" {
            (choice("state", "State", &states, &query.state))
            (choice("cache", "Image", &caches, &query.cache))
            label { "Function" input type="number" name="function" min="1" value=(number); }
            button type="submit" { "Show" }
        }
        (rows(&listed.rows, true))
        (pager("/console/tasks", &filters, listed.next.as_deref()))
    };
    let frame = Frame {
        session: &session,
        section: Section::Tasks,
        title: "Tasks",
        live: Some("/console/events".to_owned()),
    };
    Ok(layout::page(&frame, &content))
}

/// A table of tasks; with the function where they are of several.
pub(super) fn rows(tasks: &[Row], with_function: bool) -> Markup {
    let rows = html! {
        @for row in tasks {
            tr {
                th scope="row" { a href={ "/console/tasks/" (row.id) } { code { (row.id) } } }
                @if with_function {
                    td { a href={ "/console/functions/" (row.function_id) } { (text::line(&row.name)) } " " span.quiet { (text::line(&row.owner)) } }
                }
                td {
                    (badge(row.state.as_str()))
                    @if let Some(code) = &row.error_code { " " (text::line(code)) }
                }
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
        (end(&details))
        section #result data-part {
            @if state == TaskState::Succeeded {
                h2 { "Result" }
                @match &details.result {
                    Some(result) => (log("result-text", result, &format!("/console/tasks/{id}/result"))),
                    None => p { a href={ "/console/tasks/" (id) "/result" } { "The result, as a file" } },
                }
            }
        }
        section #log-part {
            h2 { "Log" }
            @match (&details.log, state.is_final()) {
                (Some(stored), _) => (log("log", stored, &format!("/console/tasks/{id}/log"))),
                (None, false) => pre.log #log tabindex="0" aria-live="off" {},
                (None, true) => p.quiet { "It left no log, or it can't be read just now." },
            }
        }
    };
    let title = format!("Task of {}", text::line(&details.function.name));
    let live = (!state.is_final()).then(|| format!("/console/events/tasks/{id}"));
    let frame = Frame { session: &session, section: Section::Tasks, title: &title, live };
    Ok(layout::page(&frame, &content))
}

fn summary(details: &TaskDetails) -> Markup {
    let (function, task) = (&details.function, &details.task);
    let image = |name: Option<&str>| {
        html! {
            @match name { Some(name) if !name.is_empty() => code { (text::line(name)) }, _ => "–" }
        }
    };
    facts(
        "summary",
        &[
            (
                "State",
                html! {
                    (badge(task.state.as_str()))
                    @if task.cancel_requested && !task.state.is_final() { " its end is asked for" }
                },
            ),
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

/// How it ended, with the evidence.
fn end(details: &TaskDetails) -> Markup {
    let task = &details.task;
    html! {
        div #end data-part {
            @if let Some(failure) = task.failure() {
                section.problem {
                    h2 { "How it ended" }
                    p {
                        (error_code(&failure.code)) ": " (text::block(&failure.message))
                        @if let Some(code) = task.exit_code { " (exit code " (code) ")" }
                    }
                    @if !failure.log.is_empty() { pre.log tabindex="0" { (text::block(&failure.log.join("\n"))) } }
                }
            }
        }
    }
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
    Path((id, name)): Path<(String, String)>,
) -> Answer {
    let (caller, id) = (&session.caller, task_id(&id)?);
    let found = match name.as_str() {
        "log" => gateway.api.task_log(caller, id, LogStream::Both).await?,
        "result" => gateway.api.task_result(caller, id, Duration::ZERO).await?,
        _ => return Err(Error::NotFound("such text of this task".to_owned()).into()),
    };
    // Never as markup: a browser shows it as it is, whatever is in it.
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], found).into_response())
}
