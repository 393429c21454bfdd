//! Builds, and one of them: from its request to the image that is published.

use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect};
use maud::{Markup, html};
use mecapy_store::BuildState;
use mecapy_store::console::builds::Row;
use serde::Deserialize;

use super::layout::{self, Frame, Section};
use super::parts::{
    badge, button, bytes, choice, empty, facts, log, maybe_time, notice, table, time,
};
use super::plot;
use super::problem::Answer;
use super::session::Act;
use super::text;
use super::work::{
    List, Named, failure, function_cell, function_field, image, log_part, of_function, plain,
    state, state_cell,
};
use crate::api::{BuildDetails, BuildQuery, BuildText, Session};
use crate::http::build_id;
use crate::{Error, Gateway};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    state: String,
    function: String,
    page_token: String,
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Answer {
    let function = of_function(&query.function)?;
    let state = BuildState::ALL.iter().find(|state| state.as_str() == query.state).copied();
    let asked = BuildQuery { function, state, page_token: query.page_token.clone() };
    let listed = gateway.api.list_builds(&session.caller, &asked).await?;
    let number = function.map(|id| id.to_string()).unwrap_or_default();
    let states: Vec<&str> = BuildState::ALL.iter().map(|state| state.as_str()).collect();
    let list = List {
        session: &session,
        section: Section::Builds,
        title: "Builds",
        path: "/console/builds",
        filters: &[
            ("function", &number),
            ("state", state.map_or("", BuildState::as_str)),
            ("page_token", &query.page_token),
        ],
        fields: html! {
            (choice("state", "State", &states, &query.state))
            (function_field(&number))
        },
        table: rows(&listed.rows, true),
        next: listed.next.as_deref(),
    };
    Ok(list.page())
}

/// A table of builds; with the function where they are of several.
pub(super) fn rows(builds: &[Row], with_function: bool) -> Markup {
    let rows = html! {
        @for row in builds {
            tr {
                th scope="row" { a href={ "/console/builds/" (row.id) } { code { (row.id) } } }
                @if with_function { (function_cell(row.function_id, &row.name, &row.owner)) }
                td.number { "v" (row.version) }
                (state_cell(row.state.as_str(), row.error_code.as_deref()))
                td { (time(row.requested_at)) }
                td.number { @if let Some(ended) = row.ended_at { (text::between(row.requested_at, ended)) } }
            }
        }
        @if builds.is_empty() { (empty(6, "There is no such build.")) }
    };
    let headers: &[&str] = if with_function {
        &["Build", "Function", "Version", "State", "Asked for", "Took"]
    } else {
        &["Build", "Version", "State", "Asked for", "Took"]
    };
    table("builds", "Builds, the newest first", headers, &rows)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Noticed {
    pub(super) notice: String,
}

pub(super) async fn one(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
    Query(query): Query<Noticed>,
) -> Answer {
    let (caller, id) = (&session.caller, build_id(&id)?);
    let details = gateway.api.build_details(caller, id).await?;
    let state = details.build.state;
    let there = |text| gateway.api.build_text_if_there(caller, id, text);
    let (stored_log, dockerfile, lock) = if details.build.started_at.is_some() {
        let log = async { if state.is_final() { there(BuildText::Log).await } else { None } };
        tokio::join!(log, there(BuildText::Dockerfile), there(BuildText::Lock))
    } else {
        (None, None, None)
    };
    let download = |text: BuildText| format!("/console/builds/{id}/{}", text.name());
    let content = html! {
        (notice(&query.notice))
        (summary(&details))
        div #act data-part {
            @if !state.is_final() && caller.must_act().is_ok() {
                (button(&session, &format!("/console/builds/{id}/cancel"), "Cancel this build"))
            }
        }
        (plot::waterfall(&details.waterfall))
        (failure("failure", "Why it failed", details.build.failure().as_ref(), None))
        (log_part(stored_log.as_ref(), state.is_final(), &download(BuildText::Log)))
        (findings(&details, &download(BuildText::Report), &download(BuildText::Sbom), &download(BuildText::Sarif)))
        @if let Some(dockerfile) = &dockerfile {
            details #dockerfile data-part { summary { "Dockerfile" } (log("dockerfile-text", dockerfile, &download(BuildText::Dockerfile))) }
        }
        @if let Some(lock) = &lock {
            details #lock data-part { summary { "Lock: what was installed" } (log("lock-text", lock, &download(BuildText::Lock))) }
        }
        @if let Some(version) = &details.version {
            details #requirements data-part {
                summary { "Requirements, as they were submitted" }
                pre.log tabindex="0" { (text::tail(version.requirements.as_bytes()).text) }
            }
        }
    };
    let function = &details.overview.function;
    let title = format!("{} v{}", text::line(&function.name), details.build.version);
    let live = (!state.is_final()).then(|| format!("/console/events/builds/{id}"));
    let frame = Frame { session: &session, section: Section::Builds, title: &title, live };
    Ok(layout::page(&frame, &content))
}

fn summary(details: &BuildDetails) -> Markup {
    let (function, build) = (&details.overview.function, &details.build);
    let version = details.version.as_ref();
    let image = |name: &Option<String>| image(name.as_deref());
    let end_is_asked_for = build.cancel_requested && !build.state.is_final();
    facts(
        "summary",
        &[
            ("State", state(build.state.as_str(), end_is_asked_for)),
            (
                "Function",
                html! { a href={ "/console/functions/" (function.id) } { (text::line(&function.name)) } },
            ),
            (
                "Asked for by",
                html! { (text::line(&function.owner)) ", " (time(build.requested_at)) },
            ),
            ("Ended", maybe_time(build.ended_at)),
            (
                "Python",
                html! {
                    @if let Some(version) = version { (text::line(&version.python_version)) " " (text::line(&version.base_variant)) }
                },
            ),
            ("Size", html! { @if let Some(size) = build.size_bytes { (bytes(size)) } }),
            ("In staging", image(&build.staging_image)),
            ("Dependency image", image(&build.dependency_image)),
            ("On the primary", image(&build.docker_image)),
            (
                "On the fallback",
                html! {
                    @match (&details.on_fallback, &build.digest) {
                        (Some((outcome, at)), Some(digest)) => {
                            code { (text::line(digest)) } " " (badge(outcome)) " " (time(*at))
                        }
                        _ => "no copy is on record",
                    }
                },
            ),
            ("Digest", image(&build.digest)),
        ],
    )
}

fn findings(details: &BuildDetails, report: &str, sbom: &str, sarif: &str) -> Markup {
    let Some(scan) = &details.overview.scan else { return html! { div #scan data-part {} } };
    let rows = html! {
        @for finding in &details.findings {
            tr {
                td { (badge(&finding.severity)) }
                th scope="row" { (text::line(&finding.id)) }
                td { (text::line(&finding.package)) " " (text::line(&finding.installed_version)) }
                td {
                    @match finding.fixed_version.as_str() {
                        "" => "no fix is known",
                        version => { "upgrade to " strong { (text::line(version)) } }
                    }
                }
                td { (text::line(&finding.summary)) }
            }
        }
        @if details.findings.is_empty() { (empty(5, "Nothing was found.")) }
    };
    html! {
        section #scan data-part {
            h2 { "Scan" }
            p {
                (badge(&scan.verdict)) " " (scan.critical) " critical, " (scan.high) " high, " (scan.medium) " medium, "
                (scan.low) " low, " (scan.unknown) " not rated. "
                span.quiet { (text::line(&scan.engine)) ", database " (text::line(&scan.database_version)) }
                @if scan.database_partial { " (the starter set: it knows few advisories)" }
            }
            @if let Some(since) = scan.revoked_at {
                p.warn { "A newer database rejects it, since " (time(since)) @if scan.refused { "; workers run it no more" } "." }
            }
            (table("findings", "The worst findings", &["Severity", "Advisory", "Package", "Remedy", "Summary"], &rows))
            p { a href=(sbom) { "SBOM (CycloneDX)" } " · " a href=(report) { "Whole report" } " · " a href=(sarif) { "SARIF" } }
        }
    }
}

pub(super) async fn cancel(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    act: Act,
) -> Answer {
    let id = build_id(&id)?;
    gateway.api.cancel_build(&act.session.caller, id, Duration::ZERO).await?;
    Ok(Redirect::to(&format!("/console/builds/{id}?notice=cancelled")).into_response())
}

/// A text of a build.
pub(super) async fn text(
    State(gateway): State<Gateway>,
    session: Session,
    Path((id, name)): Named,
) -> Answer {
    let id = build_id(&id)?;
    let not_found = || Error::NotFound("such text of this build".to_owned());
    let text = BuildText::ALL.iter().find(|text| text.name() == name).ok_or_else(not_found)?;
    let found = gateway.api.build_text(&session.caller, id, *text).await?.ok_or_else(not_found)?;
    Ok(plain(found))
}
