//! The advisories that images are matched with: how old they are, what a newer database changed, who is hit.

use axum::extract::State;
use maud::{Markup, html};

use super::layout::{self, Frame, Section};
use super::parts::{badge, empty, facts, table, time};
use super::problem::Answer;
use super::text::{self, duration};
use crate::Gateway;
use crate::api::{Advisories, Session};

pub(super) async fn page(State(gateway): State<Gateway>, session: Session) -> Answer {
    let advisories = gateway.api.advisories(&session.caller).await?;
    let content = html! {
        (database(&advisories))
        (hits(&advisories))
        (changes(&advisories))
    };
    let frame =
        Frame { session: &session, section: Section::Advisories, title: "Advisories", live: None };
    Ok(layout::page(&frame, &content))
}

fn database(advisories: &Advisories) -> Markup {
    let newest = advisories.rematches.first();
    facts(
        "database",
        &[
            (
                "Newest advisory",
                html! {
                    @match newest {
                        Some(rematch) => { (time(rematch.newest)) ", " (text::between(rematch.newest, chrono::Utc::now())) " ago" }
                        None => "live images were not matched with a new database yet",
                    }
                },
            ),
            (
                "Database",
                html! { @if let Some(rematch) = newest { (text::line(&rematch.database_version)) } },
            ),
            (
                "Newest scan",
                html! {
                    @match &advisories.newest_scan {
                        Some((engine, version, partial, at)) => {
                            (text::line(engine)) ", database " (text::line(version)) ", " (time(*at))
                            @if *partial { " " (badge("starter set")) }
                        }
                        None => "there was none yet",
                    }
                },
            ),
        ],
    )
}

fn hits(advisories: &Advisories) -> Markup {
    let rows = html! {
        @for hit in &advisories.hits {
            tr {
                th scope="row" { a href={ "/console/functions/" (hit.function_id) } { (text::line(&hit.name)) } }
                td { (text::line(&hit.owner)) }
                td { a href={ "/console/builds/" (hit.build_id) } { "v" (hit.version) } }
                td { (badge(if hit.refused { "refused" } else { "revoked" })) }
                td { (time(hit.revoked_at)) }
                td.number { (hit.critical) " / " (hit.high) }
                td {
                    @for finding in hit.findings.as_array().into_iter().flatten().take(3) {
                        div { (text::line(finding["package"].as_str().unwrap_or_default())) " " (text::line(finding["id"].as_str().unwrap_or_default())) }
                    }
                }
            }
        }
        @if advisories.hits.is_empty() { (empty(7, "No live function is hit.")) }
    };
    let headers = ["Function", "Owner", "Build", "State", "Since", "Critical / high", "By"];
    table("hits", "Live functions that are hit", &headers, &rows)
}

fn changes(advisories: &Advisories) -> Markup {
    let rows = html! {
        @for rematch in &advisories.rematches {
            tr {
                td { (time(rematch.ended_at)) }
                th scope="row" { (text::line(&rematch.database_version)) }
                td.number { (rematch.images) @if rematch.unindexed > 0 { " (" (rematch.unindexed) " unknown)" } }
                td.number { (rematch.revoked) }
                td.number { (rematch.restored) }
                td.number { (duration(rematch.duration_ms as f64)) }
            }
        }
        @if advisories.rematches.is_empty() { (empty(6, "There was none yet.")) }
    };
    let headers = ["When", "Database", "Images", "Revoked", "Restored", "Took"];
    table("changes", "What new databases changed", &headers, &rows)
}
