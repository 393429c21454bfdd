//! How full the registry is, and its cleanup: plan, apply, undo. What goes is named before it goes.

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect};
use chrono::Utc;
use maud::{Markup, html};
use mecapy_store::cleanup_runs::Run;
use serde::Deserialize;

use super::layout::{self, Frame, Section};
use super::mirror::address;
use super::parts::{
    badge, button, bytes, csrf, empty, facts, maybe_time, pager, short, table, time,
};
use super::plot;
use super::problem::Answer;
use super::session::Act;
use super::text;
use crate::api::{CleanupAction, CleanupItems, CleanupRun, Session, why_not_applied};
use crate::{Error, Gateway};

pub(super) async fn page(State(gateway): State<Gateway>, session: Session) -> Answer {
    let storage = gateway.api.storage(&session.caller).await?;
    let rows = html! {
        @for run in &storage.runs {
            tr {
                th scope="row" { a href={ "/console/registry/runs/" (address(&run.id)) } { (text::line(&run.id)) } }
                td { (badge(&run.state)) @if run.dry_run { " plan only" } @if !run.stopped.is_empty() { " stopped itself" } }
                td { (text::line(&run.kind)) ", " (text::line(&run.reason)) }
                td { (time(run.requested_at)) }
                td.number { (run.planned_images) ", " (bytes(run.planned_bytes)) }
                td.number { (bytes(run.freed_bytes)) }
            }
        }
        @if storage.runs.is_empty() { (empty(6, "There was no run yet.")) }
    };
    let headers = ["Run", "State", "What", "Asked for", "Planned", "Freed"];
    let content = html! {
        (plot::storage(&storage))
        @if session.caller.must_operate().is_ok() {
            p { "A plan tells what would go, and why. Nothing is deleted by it." }
            (button(&session, "/console/registry/plan", "Make a plan"))
        }
        (table("runs", "Runs of the cleanup, the newest first", &headers, &rows))
    };
    let frame =
        Frame { session: &session, section: Section::Registry, title: "Registry", live: None };
    Ok(layout::page(&frame, &content))
}

/// Which of the items.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Page {
    page_token: String,
}

pub(super) async fn run(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Answer {
    let found = gateway.api.cleanup_run(&session.caller, &id, &page.page_token).await?;
    let title = format!("Cleanup run {}", text::line(&id));
    let goes_on = found.as_ref().is_none_or(|found| !found.run.has_ended());
    let content = match &found {
        None => html! {
            p #state data-part { "No janitor has begun it yet. It begins when one is free." }
        },
        Some(found) => html! {
            (summary(&found.run))
            div #next data-part { (what_next(&session, found)) }
            (items(&found.items))
            (more(&format!("/console/registry/runs/{}", address(&id)), &page, &found.items))
        },
    };
    let live = goes_on.then(|| "/console/events".to_owned());
    let frame = Frame { session: &session, section: Section::Registry, title: &title, live };
    Ok(layout::page(&frame, &content))
}

fn summary(run: &Run) -> Markup {
    html! {
        div #state data-part {
            @if !run.stopped.is_empty() { p.warn { "It stopped itself: " (text::block(&run.stopped)) } }
            @if !run.problem.is_empty() { p.warn { (text::block(&run.problem)) } }
            (facts("summary", &[
                ("State", html! { (badge(&run.state)) @if run.dry_run { " plan only: nothing is deleted" } }),
                ("What", html! { (text::line(&run.kind)) ", " (text::line(&run.reason)) @if !run.target.is_empty() { " of " code { (text::line(&run.target)) } } }),
                ("Asked for", time(run.requested_at)),
                ("Planned", maybe_time(run.planned_at)),
                ("Ended", maybe_time(run.ended_at)),
                ("Images seen", html! { (run.images_seen) }),
                ("To go", html! { (run.planned_images) " images, " (bytes(run.planned_bytes)) }),
                ("Freed", html! { (bytes(run.freed_bytes)) }),
                ("Storage", html! { (bytes(run.storage_bytes)) }),
            ]))
        }
    }
}

fn what_next(session: &Session, found: &CleanupRun) -> Markup {
    let run = &found.run;
    let may = session.caller.must_operate().is_ok() && run.state == "done";
    let here = format!("/console/registry/runs/{}", address(&run.id));
    html! {
        @if may && run.kind == "cleanup" && run.dry_run && found.items.total() > 0 {
            @match why_not_applied(run, Utc::now()) {
                None => p { a.button href={ (here) "/apply" } { "Delete what it names…" } },
                Some(why) => p.quiet { "It can't be applied: " (why) "." },
            }
        }
        @if may && run.kind == "cleanup" && !run.dry_run && found.items.total() > 0 {
            p { a.button href={ (here) "/undo" } { "Put back what it deleted…" } }
        }
    }
}

fn items(items: &CleanupItems) -> Markup {
    let rows = html! {
        @for item in &items.page {
            tr {
                th scope="row" { (text::line(&item.repository)) " " code { (short(&item.digest)) } }
                td { (text::line(&item.tags.join(" "))) @if let Some(to) = &item.moved_to { " to " code { (short(to)) } } }
                td { (text::line(&item.action.replace('_', " "))) }
                td { (badge(&item.state)) @if !item.outcome.is_empty() { " " (text::line(&item.outcome)) } }
                td { (text::line(&item.policy)) " / " (text::line(&item.rule)) }
                td { (text::line(&item.reason)) }
            }
        }
        @if items.page.is_empty() { (empty(6, "There is nothing to delete.")) }
    };
    let headers = ["Image", "Tags", "What", "State", "Policy and rule", "Why"];
    html! {
        (table("items", "What goes, in order", &headers, &rows))
        @if (items.page.len() as i64) < items.total() { p.quiet { (items.page.len()) " of " (items.total()) "." } }
    }
}

fn more(path: &str, page: &Page, items: &CleanupItems) -> Markup {
    pager(path, &[("page_token", page.page_token.as_str())], items.next.as_deref())
}

/// What goes, in numbers: by policy, with the images' names, a page at a time.
fn named(path: &str, page: &Page, items: &CleanupItems) -> Markup {
    html! {
        ul { @for (policy, count) in &items.by_policy { li { (text::line(policy)) ": " (count) } } }
        details open[items.total() <= 20 || !page.page_token.is_empty()] {
            summary { "All " (items.total()) " by name" }
            ul.names {
                @for item in &items.page {
                    li { (text::line(&item.action.replace('_', " "))) " " code { (text::line(&item.repository)) "@" (short(&item.digest)) } " " (text::line(&item.tags.join(" "))) ": " (text::line(&item.reason)) }
                }
            }
            (more(path, page, items))
        }
    }
}

pub(super) async fn ask_apply(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Answer {
    session.caller.must_operate()?;
    let found = gateway.api.cleanup_run(&session.caller, &id, &page.page_token).await?;
    let found = found.ok_or_else(|| Error::NotFound("cleanup run with this id".to_owned()))?;
    let run = &found.run;
    let content = html! {
        p {
            "The plan of " (maybe_time(run.planned_at)) " names " strong { (found.items.total()) " things" } " of "
            (bytes(run.planned_bytes)) ". The janitor plans once more when it deletes: what is needed by then stays, and "
            "what has become due since goes as well. What goes can be put back for 30 days."
        }
        (named(&format!("/console/registry/runs/{}/apply", address(&id)), &page, &found.items))
        @if let Some(why) = why_not_applied(run, Utc::now()) {
            p.warn { "It can't be applied: " (why) "." }
            p { a href={ "/console/registry/runs/" (address(&run.id)) } { "Leave it" } }
        } @else {
            form method="post" action="/console/registry/apply" {
                (csrf(&session))
                input type="hidden" name="run" value=(run.id);
                @if !run.stopped.is_empty() {
                    p.warn { (text::block(&run.stopped)) }
                    label { input type="checkbox" name="although" value="yes" required; " Delete it although it is that much" }
                }
                button.danger type="submit" { "Delete it" }
                " " a href={ "/console/registry/runs/" (address(&run.id)) } { "Leave it" }
            }
        }
    };
    let frame =
        Frame { session: &session, section: Section::Registry, title: "Delete?", live: None };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn ask_undo(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> Answer {
    session.caller.must_operate()?;
    let items = gateway.api.undoable(&session.caller, &id, &page.page_token).await?;
    let content = html! {
        @if items.total() == 0 {
            p { "There is nothing of it that could be put back." }
        } @else {
            p { "This puts back " strong { (items.total()) " things" } " that the run deleted, as far as their blobs are still there." }
            (named(&format!("/console/registry/runs/{}/undo", address(&id)), &page, &items))
            form method="post" action="/console/registry/undo" {
                (csrf(&session))
                input type="hidden" name="run" value=(id);
                button type="submit" { "Put it back" }
            }
        }
        p { a href={ "/console/registry/runs/" (address(&id)) } { "Leave it" } }
    };
    let frame =
        Frame { session: &session, section: Section::Registry, title: "Put back?", live: None };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn plan(State(gateway): State<Gateway>, act: Act) -> Answer {
    ask(&gateway, &act, CleanupAction::Plan).await
}

pub(super) async fn apply(State(gateway): State<Gateway>, act: Act) -> Answer {
    let plan = act.form.get("run").to_owned();
    let although = act.form.get("although") == "yes";
    ask(&gateway, &act, CleanupAction::Apply { plan, although }).await
}

pub(super) async fn undo(State(gateway): State<Gateway>, act: Act) -> Answer {
    let run = act.form.get("run").to_owned();
    ask(&gateway, &act, CleanupAction::Undo { run }).await
}

async fn ask(gateway: &Gateway, act: &Act, action: CleanupAction) -> Answer {
    let id = gateway.api.ask_cleanup(&act.session.caller, action).await?;
    Ok(Redirect::to(&format!("/console/registry/runs/{id}")).into_response())
}
