//! The copy on the fallback registry: its runs, what became of each image, how old it is.

use axum::extract::{Path, State};
use maud::{Markup, html};
use mecapy_store::mirror_drills::Drill;
use mecapy_store::mirror_runs::{Image, Outcome};

use super::layout::{self, Frame, Section};
use super::parts::{badge, bytes, empty, facts, maybe_time, short, table, time};
use super::problem::Answer;
use super::text::{self, duration};
use crate::api::{Mirrored, Session};
use crate::{Error, Gateway};

pub(super) async fn page(State(gateway): State<Gateway>, session: Session) -> Answer {
    let mirrored = gateway.api.mirrored(&session.caller).await?;
    let content = html! {
        (lag(&mirrored))
        (drill(mirrored.drill.as_ref()))
        (runs(&mirrored))
    };
    let frame = Frame { session: &session, section: Section::Mirror, title: "Mirror", live: None };
    Ok(layout::page(&frame, &content))
}

fn lag(mirrored: &Mirrored) -> Markup {
    let lag = mirrored.lag;
    facts(
        "lag",
        &[
            (
                "Since the last complete run",
                html! {
                    @match lag.since_complete_s {
                        Some(seconds) => (duration(seconds * 1_000.0)),
                        None => "there was never one",
                    }
                },
            ),
            (
                "Oldest image without a copy",
                html! {
                    @if lag.oldest_unmirrored_s > 0.0 {
                        "published " (duration(lag.oldest_unmirrored_s * 1_000.0)) " ago"
                    } @else { "all have one" }
                },
            ),
        ],
    )
}

fn drill(drill: Option<&Drill>) -> Markup {
    let Some(drill) = drill else {
        return html! {
            p.quiet { "The recovery was never tried out: " code { "mecapy mirror drill" } }
        };
    };
    let images = drill.images.as_array().map(Vec::as_slice).unwrap_or_default();
    let said =
        |image: &serde_json::Value, key: &str| text::line(image[key].as_str().unwrap_or_default());
    let took = |image: &serde_json::Value, key: &str| image[key].as_f64().map(duration);
    let rows = html! {
        @for image in images {
            tr {
                th scope="row" { code { (said(image, "image")) } }
                td.number { (took(image, "pull_ms").unwrap_or_default()) }
                td.number { (took(image, "smoke_test_ms").unwrap_or_default()) }
                td { @if image["problem"].is_null() { "works" } @else { (said(image, "problem")) } }
            }
        }
    };
    html! {
        section {
            h2 { "The last drill" }
            p {
                @if drill.recovered { (badge("done")) " Every image that was tried works" }
                @else { (badge("failed")) " Not every image that was tried works" }
                ", from " (text::line(&drill.fallback)) " alone, in " (duration(drill.duration_ms as f64)) ", on " (time(drill.at)) "."
            }
            (table("drill", "Images of the drill", &["Image", "Pull", "Smoke test", "Result"], &rows))
        }
    }
}

fn runs(mirrored: &Mirrored) -> Markup {
    let rows = html! {
        @for (run, totals) in &mirrored.runs {
            tr {
                th scope="row" { a href={ "/console/mirror/" (address(&run.id)) } { (text::line(&run.id)) } }
                td { (badge(&run.state)) @if run.dry_run { " dry run" } }
                td { (text::line(&run.reason)) }
                td { (time(run.requested_at)) }
                td.number { @if let Some(ended) = run.ended_at { (text::between(run.requested_at, ended)) } }
                td.number { (totals.images) }
                td.number { (totals.mirrored) " / " (totals.unchanged) }
                td.number { (totals.failed + totals.not_found) }
                td.number { (bytes(totals.bytes_sent)) }
            }
        }
        @if mirrored.runs.is_empty() { (empty(9, "There was no run yet.")) }
    };
    let headers = [
        "Run",
        "State",
        "Why",
        "Asked for",
        "Took",
        "Images",
        "Copied / there already",
        "Failed",
        "Sent",
    ];
    table("runs", "Runs, the newest first", &headers, &rows)
}

pub(super) async fn run(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
) -> Answer {
    let (run, totals, images) = gateway.api.mirror_run(&session.caller, &id).await?;
    let mut shown = Vec::with_capacity(images.len());
    for image in &images {
        let outcome = image.outcome().map_err(Error::from)?;
        shown.push((image, outcome));
    }
    let content = html! {
        (facts("summary", &[
            ("State", badge(&run.state)),
            ("Why", html! { (text::line(&run.reason)) @if run.dry_run { ", dry run" } }),
            ("Asked for", time(run.requested_at)),
            ("Ended", maybe_time(run.ended_at)),
            ("Images", html! {
                (totals.images) ": " (totals.mirrored) " copied, " (totals.unchanged) " there already, "
                (totals.failed) " failed, " (totals.not_found) " not found, " (totals.open) " open"
            }),
            ("Bytes", html! { (bytes(totals.bytes_sent)) " sent, " (bytes(totals.bytes_saved)) " saved" }),
        ]))
        (outcomes(&shown))
    };
    let title = format!("Mirror run {}", text::line(&run.id));
    let live = (!run.has_ended()).then(|| "/console/events".to_owned());
    let frame = Frame { session: &session, section: Section::Mirror, title: &title, live };
    Ok(layout::page(&frame, &content))
}

fn outcomes(images: &[(&Image, Option<Outcome>)]) -> Markup {
    let rows = html! {
        @for (image, outcome) in images {
            tr {
                th scope="row" { (text::line(&image.repository)) " " code { (short(&image.digest)) } }
                td { (text::line(&image.tags.join(" "))) }
                td.number { (image.tasks) }
                td { (badge(outcome.map_or("open", Outcome::as_str))) @if image.verified { " verified" } }
                td.number { (bytes(image.bytes_sent)) }
                td.number { (duration(image.duration_ms as f64)) }
                td {
                    @if let Some(code) = &image.error_code { (text::line(code)) ": " }
                    @if let Some(message) = &image.error_message { (text::line(message)) }
                }
            }
        }
        @if images.is_empty() { (empty(7, "It has no images.")) }
    };
    let headers = ["Image", "Tags", "Tasks", "Outcome", "Sent", "Took", "Why"];
    table("images", "What became of each image", &headers, &rows)
}

/// A run's id in an address: whoever publishes an event may choose it.
pub(super) fn address(id: &str) -> String {
    url::form_urlencoded::byte_serialize(id.as_bytes()).collect::<String>().replace('+', "%20")
}
