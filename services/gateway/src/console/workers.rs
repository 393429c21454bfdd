//! Who runs tasks, and what each has.

use axum::extract::State;
use maud::{Markup, html};
use mecapy_bus::WorkerStatus;

use super::layout::{self, Frame, Section};
use super::parts::{badge, bytes, empty, short, table, time, unseen};
use super::problem::Answer;
use super::text;
use crate::Gateway;
use crate::api::Session;

pub(super) async fn page(State(gateway): State<Gateway>, session: Session) -> Answer {
    let snapshot = gateway.api.snapshot(&session.caller).await?;
    let content = match &snapshot.workers {
        Ok(workers) => html! {
            (overview(workers))
            @for worker in workers { (one(worker)) }
        },
        Err(why) => unseen("Workers", why),
    };
    let frame = Frame {
        session: &session,
        section: Section::Workers,
        title: "Workers",
        live: Some("/console/events".to_owned()),
    };
    Ok(layout::page(&frame, &content))
}

fn overview(workers: &[WorkerStatus]) -> Markup {
    let rows = html! {
        @for worker in workers {
            @let parked: usize = worker.parked.iter().map(|parked| parked.waiting).sum();
            @let state = match () {
                () if worker.is_stopping => "stopping",
                () if worker.running >= worker.slots => "busy",
                () => "free",
            };
            tr {
                th scope="row" { (text::line(&worker.name)) " " span.quiet { (text::line(&worker.version)) } }
                td { (badge(state)) }
                td.number { (worker.running) " of " (worker.slots) }
                td.number { (parked) " for " (worker.parked.len()) }
                td.number { (worker.images.len()) ", " (bytes(worker.image_bytes as i64)) }
                td {
                    @for registry in &worker.registries {
                        div { (text::line(&registry.host)) " " (badge(&registry.breaker)) }
                    }
                }
                td { (time(worker.started_at)) }
                td { (time(worker.seen_at)) }
            }
        }
        @if workers.is_empty() { (empty(8, "No worker has said anything lately.")) }
    };
    let headers = [
        "Worker",
        "State",
        "Tasks",
        "Containers that wait",
        "Images",
        "Breakers of registries",
        "Since",
        "Last sign",
    ];
    table("workers", "Workers", &headers, &rows)
}

fn one(worker: &WorkerStatus) -> Markup {
    let rows = html! {
        @for parked in &worker.parked {
            tr {
                th scope="row" { code { (text::line(&parked.dependencies)) } }
                td.number { (parked.waiting) }
                td.number { (parked.starting) }
            }
        }
        @if worker.parked.is_empty() { (empty(3, "None wait.")) }
    };
    let id = format!("worker-{}", worker.key().replace('=', "-"));
    html! {
        details id=(id) data-part {
            summary { (text::line(&worker.name)) ": pools and images" }
            (table(&format!("{id}-pools"), "Containers that wait, by their dependencies", &["Dependencies", "Wait", "Start"], &rows))
            p {
                (worker.images.len()) " images: "
                @for digest in worker.images.iter().take(200) { code { (short(digest)) } " " }
            }
        }
    }
}
