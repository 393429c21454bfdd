//! Functions, and one of them.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect};
use maud::{Markup, html};
use serde::Deserialize;

use super::builds;
use super::layout::{self, Frame, Section};
use super::parts::{
    badge, button, bytes, csrf, empty, facts, link, maybe_time, notice, pager, table, time,
};
use super::plot;
use super::problem::Answer;
use super::session::Act;
use super::tasks;
use super::text;
use crate::api::{BuildQuery, FunctionDetails, FunctionQuery, Session, TaskQuery};
use crate::http::function_id;
use crate::{Gateway, Role};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    name: String,
    page_token: String,
    notice: String,
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Answer {
    let name = query.name.trim();
    let asked = FunctionQuery { name: name.to_owned(), page_token: query.page_token.clone() };
    let listed = gateway.api.list_functions(&session.caller, &asked).await?;
    let all = session.caller.role != Role::Owner;
    let rows = html! {
        @for row in &listed.rows {
            tr {
                th scope="row" { a href={ "/console/functions/" (row.id) } { (text::line(&row.name)) } " " span.quiet { "#" (row.id) } }
                @if all { td { (text::line(&row.owner)) } }
                td {
                    @if let Some(state) = &row.state { (badge(state)) }
                    @if row.is_revoked { " " (badge("revoked")) }
                    @if !row.is_live { " " span.quiet { "can't run yet" } }
                }
                td {
                    @if let Some((build, version)) = row.build_id.zip(row.version) {
                        a href={ "/console/builds/" (build) } { "v" (version) }
                    }
                }
                td { (maybe_time(row.requested_at)) }
                td.number { @if let Some(size) = row.size_bytes { (bytes(size)) } }
                td {
                    @if let Some((critical, high)) = row.critical.zip(row.high) {
                        @if critical > 0 { (critical) " " (badge("CRITICAL")) " " }
                        @if high > 0 { (high) " " (badge("HIGH")) }
                        @if critical + high == 0 { "none" }
                    }
                }
            }
        }
        @if listed.rows.is_empty() { (empty(7, "There is no such function.")) }
    };
    let headers: &[&str] = if all {
        &["Function", "Owner", "State", "Build", "Asked for", "Image", "Findings"]
    } else {
        &["Function", "State", "Build", "Asked for", "Image", "Findings"]
    };
    let filters = [("name", name), ("page_token", query.page_token.as_str())];
    let content = html! {
        (notice(&query.notice))
        form.filters method="get" action="/console/functions" role="search" {
            label { "Name begins with" input type="search" name="name" value=(text::line(name)); }
            button type="submit" { "Show" }
        }
        (table("functions", "Functions, the newest first", headers, &rows))
        (pager("/console/functions", &filters, listed.next.as_deref()))
    };
    let frame = Frame {
        session: &session,
        section: Section::Functions,
        title: "Functions",
        live: Some("/console/events".to_owned()),
    };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn one(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
) -> Answer {
    let (caller, id) = (&session.caller, function_id(&id)?);
    let of_builds = BuildQuery { function: Some(id), ..BuildQuery::default() };
    let of_tasks = TaskQuery { function: Some(id), ..TaskQuery::default() };
    let details = gateway.api.function_details(caller, id).await?;
    let (built, ran) = tokio::try_join!(
        gateway.api.list_builds(caller, &of_builds),
        gateway.api.list_tasks(caller, &of_tasks),
    )?;
    let number = id.to_string();
    let filter = [("function", number.as_str())];
    let content = html! {
        (summary(&details))
        (plot::usage(&details.usage))
        (builds::rows(&built.rows, false))
        @if built.next.is_some() { p { a href=(link("/console/builds", &filter, None)) { "All its builds" } } }
        (tasks::rows(&ran.rows, false))
        @if ran.next.is_some() { p { a href=(link("/console/tasks", &filter, None)) { "All its tasks" } } }
        @if caller.must_act().is_ok() {
            p { "What it needs may be newer by now: its base image, packages that are not pinned." }
            (button(&session, &format!("/console/functions/{id}/rebuild"), "Build its newest version again"))
            p { a.danger href={ "/console/functions/" (id) "/delete" } { "Delete this function…" } }
        }
    };
    let title = text::line(&details.overview.function.name);
    let frame = Frame {
        session: &session,
        section: Section::Functions,
        title: &title,
        live: Some("/console/events".to_owned()),
    };
    Ok(layout::page(&frame, &content))
}

fn summary(details: &FunctionDetails) -> Markup {
    let function = &details.overview.function;
    let state = details.overview.build.as_ref().map(|build| build.state.as_str());
    html! {
        @if let Some(revoked) = &details.revoked {
            p.warn {
                "A newer advisory database rejects the image that runs"
                @if revoked.refused { "; workers run it no more" }
                ": " (revoked.critical) " critical, " (revoked.high) " high. Submit it again with newer versions."
            }
        }
        (facts("summary", &[
            ("Number", html! { (function.id) }),
            ("Owner", html! { (text::line(&function.owner)) }),
            ("Newest build", html! { @if let Some(state) = state { (badge(state)) } }),
            ("Runs", html! {
                @match &function.docker_image {
                    Some(image) => code { (text::line(image)) },
                    None => "nothing yet",
                }
            }),
            ("Since", time(function.created_at)),
        ]))
    }
}

pub(super) async fn rebuild(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    act: Act,
) -> Answer {
    let id = function_id(&id)?;
    let function = gateway.api.rebuild(&act.session.caller, id, Duration::ZERO).await?;
    let place = match function.build_id {
        Some(build) => format!("/console/builds/{build}?notice=rebuilding"),
        None => format!("/console/functions/{id}"),
    };
    Ok(Redirect::to(&place).into_response())
}

pub(super) async fn ask_delete(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
) -> Answer {
    let id = function_id(&id)?;
    session.caller.must_act()?;
    let details = gateway.api.function_details(&session.caller, id).await?;
    let function = &details.overview.function;
    let content = html! {
        p {
            "This deletes function " strong { (text::line(&function.name)) } " (number " (function.id) ") of "
            (text::line(&function.owner)) " with all its versions. It runs no more; its images go with the next cleanup."
        }
        form method="post" action={ "/console/functions/" (id) "/delete" } {
            (csrf(&session))
            button.danger type="submit" { "Delete " (text::line(&function.name)) }
            " " a href={ "/console/functions/" (id) } { "Leave it" }
        }
    };
    let frame = Frame {
        session: &session,
        section: Section::Functions,
        title: "Delete a function?",
        live: None,
    };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn delete(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    act: Act,
) -> Answer {
    gateway.api.delete(&act.session.caller, function_id(&id)?).await?;
    Ok(Redirect::to("/console/functions?notice=deleted").into_response())
}
