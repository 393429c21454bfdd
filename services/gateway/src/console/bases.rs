//! Base images: what functions are built on now, runs, and functions that stand on older ones.

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect};
use maud::{Markup, html};
use mecapy_proto::FunctionId;
use mecapy_store::bases::Stale;
use mecapy_store::console::bases::{Asked, Image};
use serde::Deserialize;

use super::builds::Noticed;
use super::layout::{self, Frame, Section};
use super::mirror::address;
use super::parts::{
    badge, button, bytes, csrf, empty, error_code, facts, link, maybe_time, notice, pager, short,
    table, time,
};
use super::problem::Answer;
use super::session::Act;
use super::text;
use crate::api::Session;
use crate::http::function_id;
use crate::{Error, Gateway};

/// Functions that are built again at once.
const BATCH: usize = 10;

pub(super) async fn page(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<Noticed>,
) -> Answer {
    let bases = gateway.api.bases(&session.caller).await?;
    let content = html! {
        (notice(&query.notice))
        (images("current", "What functions are built on now", &bases.current))
        @if bases.current.is_empty() {
            p.quiet { "No run has made one yet: functions are built on what the registry has under the name of their base." }
        }
        p { a href="/console/bases/stale" { "Functions on an older base image" } }
        @if session.caller.must_operate().is_ok() {
            (button(&session, "/console/bases/build", "Build the base images"))
        }
        (runs(&bases.runs))
    };
    let frame = Frame {
        session: &session,
        section: Section::Bases,
        title: "Base images",
        live: Some("/console/events".to_owned()),
    };
    Ok(layout::page(&frame, &content))
}

fn images(id: &str, caption: &str, images: &[Image]) -> Markup {
    let rows = html! {
        @for image in images {
            tr {
                th scope="row" { (text::line(&image.base)) }
                td { (badge(image.state.as_str())) }
                td { (verdict(image)) }
                td { (places(image)) }
                td.number { @if let Some(size) = image.size_bytes { (bytes(size)) } }
                td { (time(image.requested_at)) }
                td.number { @if let Some(ended) = image.ended_at { (text::between(image.requested_at, ended)) } }
                td { a href={ "/console/bases/runs/" (address(&image.base_run)) } { (text::line(&image.base_run)) } }
            }
        }
        @if images.is_empty() { (empty(8, "There is none yet.")) }
    };
    let headers = [
        "Base",
        "State",
        "Verdict",
        "Digest, on each registry",
        "Size",
        "Asked for",
        "Took",
        "Run",
    ];
    table(id, caption, &headers, &rows)
}

fn verdict(image: &Image) -> Markup {
    html! {
        @if let Some(verdict) = &image.verdict {
            (badge(verdict)) " "
            (image.critical.unwrap_or_default()) " critical, " (image.high.unwrap_or_default()) " high"
        }
    }
}

/// Where it is. What is not published has the digest that the builder gave it.
fn places(image: &Image) -> Markup {
    html! {
        @for place in image.places() {
            div { (text::line(&place.registry)) " " code { (short(&place.digest)) } }
        }
        @if image.places().is_empty() {
            @if let Some(digest) = &image.digest { code { (short(digest)) } }
        }
    }
}

/// Why, and who wanted it.
fn reason(asked: &Asked) -> Markup {
    html! {
        (text::line(&asked.run.reason))
        @if let Some(by) = &asked.by { ", " (text::line(by)) }
    }
}

fn runs(runs: &[Asked]) -> Markup {
    let rows = html! {
        @for asked in runs {
            @let run = &asked.run;
            tr {
                th scope="row" { a href={ "/console/bases/runs/" (address(&run.id)) } { (text::line(&run.id)) } }
                td { (reason(asked)) }
                td { (time(run.requested_at)) }
                td.number { @if let Some(ended) = run.ended_at { (text::between(run.requested_at, ended)) } }
                td.number { (run.ready) }
                td.number { (run.rejected) }
                td.number { (run.failed) }
                td.number { (run.open) }
            }
        }
        @if runs.is_empty() { (empty(8, "There was no run yet.")) }
    };
    let headers = ["Run", "Why, who", "Asked for", "Took", "Ready", "Rejected", "Failed", "Open"];
    table("runs", "Runs, the newest first", &headers, &rows)
}

pub(super) async fn run(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
) -> Answer {
    let found = gateway.api.base_run(&session.caller, &id).await?;
    let goes_on = found.as_ref().is_none_or(|(asked, _)| asked.run.ended_at.is_none());
    let content = match &found {
        None => {
            html! { p #summary data-part { "No builder has begun it yet. It begins when one is free." } }
        }
        Some((asked, of_run)) => html! {
            (facts("summary", &[
                ("Why, who", reason(asked)),
                ("Asked for", time(asked.run.requested_at)),
                ("Ended", maybe_time(asked.run.ended_at)),
                ("Images", html! {
                    (asked.run.ready) " ready, " (asked.run.rejected) " rejected, " (asked.run.failed) " failed, "
                    (asked.run.open) " open"
                }),
            ]))
            (images("images", "Its images", of_run))
            div #failures data-part { @for image in of_run { (failure(image)) } }
        },
    };
    let title = format!("Run {} of base images", text::line(&id));
    let live = goes_on.then(|| "/console/events".to_owned());
    let frame = Frame { session: &session, section: Section::Bases, title: &title, live };
    Ok(layout::page(&frame, &content))
}

fn failure(image: &Image) -> Markup {
    html! {
        @if let Some(code) = &image.error_code {
            section.problem {
                h2 { (text::line(&image.base)) }
                p { (error_code(code)) ": " (text::block(image.error_message.as_deref().unwrap_or_default())) }
                @if let Some(log) = image.error_log.as_ref().filter(|log| !log.is_empty()) {
                    pre.log tabindex="0" { (text::block(&log.join("\n"))) }
                }
            }
        }
    }
}

pub(super) async fn build(State(gateway): State<Gateway>, act: Act) -> Answer {
    let id = gateway.api.build_bases(&act.session.caller).await?;
    Ok(Redirect::to(&format!("/console/bases/runs/{id}")).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    page_token: String,
    notice: String,
}

pub(super) async fn stale(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Answer {
    let listed = gateway.api.stale(&session.caller, &query.page_token).await?;
    let rows = html! {
        @for stale in &listed.rows {
            @let current = &stale.current;
            tr {
                th scope="row" { (function(stale)) }
                td { (text::line(&current.owner)) }
                td { a href={ "/console/builds/" (current.build()) } { "v" (current.version) } }
                td { (text::line(&current.python_version)) "-" (text::line(&current.base_variant)) }
                td { @match &stale.base_digest { Some(digest) => code { (short(digest)) }, None => "not known" } }
                td { code { (short(&stale.newest_digest)) } }
                td { @if stale.in_work { (badge("building")) } }
            }
        }
        @if listed.rows.is_empty() { (empty(7, "Every function stands on the newest image of its base.")) }
    };
    let headers = ["Function", "Owner", "Build", "Base", "Stands on", "Newest", "On its way"];
    let waits = listed.rows.iter().any(|stale| !stale.in_work);
    let filters = [("page_token", query.page_token.as_str())];
    let here = Some(query.page_token.as_str()).filter(|token| !token.is_empty());
    let content = html! {
        (notice(&query.notice))
        (table("stale", "Functions on an older base image", &headers, &rows))
        @if waits && session.caller.must_operate().is_ok() {
            p { a.button href=(link("/console/bases/rebuild", &[], here)) { "Build the first " (BATCH) " of them again…" } }
        }
        (pager("/console/bases/stale", &filters, listed.next.as_deref()))
    };
    let frame = Frame {
        session: &session,
        section: Section::Bases,
        title: "Functions on an older base image",
        // It looks at every function.
        live: None,
    };
    Ok(layout::page(&frame, &content))
}

fn function(stale: &Stale) -> Markup {
    html! {
        @match stale.current.function_id() {
            Ok(id) => a href={ "/console/functions/" (id) } { (text::line(&stale.current.name)) },
            Err(_) => (text::line(&stale.current.name)),
        }
    }
}

/// Which ones, before they are built.
pub(super) async fn ask_rebuild(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Answer {
    session.caller.must_operate()?;
    let listed = gateway.api.stale(&session.caller, &query.page_token).await?;
    let chosen = listed.rows.iter().filter(|stale| !stale.in_work).take(BATCH);
    let chosen: Vec<&Stale> = chosen.collect();
    let content = html! {
        @if chosen.is_empty() {
            p { "None of them waits to be built again." }
        } @else {
            p {
                "These versions are built again, on the newest image of their base. Until a build is ready its function runs "
                "as it does now. When they have ended, and one of them at least is ready, build the next ones."
            }
            ul.names {
                @for stale in &chosen {
                    li { (function(stale)) " of " (text::line(&stale.current.owner)) ", v" (stale.current.version) }
                }
            }
            form method="post" action="/console/bases/rebuild" {
                (csrf(&session))
                @for stale in &chosen {
                    @if let Ok(id) = stale.current.function_id() { input type="hidden" name="id" value=(id); }
                }
                button type="submit" { "Build " (chosen.len()) " again" }
            }
        }
        p { a href="/console/bases/stale" { "Leave them" } }
    };
    let frame = Frame {
        session: &session,
        section: Section::Bases,
        title: "Build them again?",
        live: None,
    };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn rebuild(State(gateway): State<Gateway>, act: Act) -> Answer {
    let ids = act.form.all("id").map(function_id).collect::<Result<Vec<FunctionId>, Error>>()?;
    gateway.api.rebuild_stale(&act.session.caller, &ids).await?;
    Ok(Redirect::to("/console/bases/stale?notice=rebuilding").into_response())
}
