//! Who runs tasks, what each has, and who is to take none.

use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Redirect};
use maud::{Markup, html};
use mecapy_bus::{DrainOrder, WorkerStatus};
use serde::Deserialize;

use super::builds::Noticed;
use super::layout::{self, Frame, Section};
use super::parts::{badge, bytes, csrf, empty, link, notice, short, table, time, unseen};
use super::problem::Answer;
use super::session::Act;
use super::text;
use crate::api::Session;
use crate::{Error, Gateway};

pub(super) async fn page(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<Noticed>,
) -> Answer {
    let snapshot = gateway.api.snapshot(&session.caller).await?;
    let content = html! {
        (notice(&query.notice))
        @match (&snapshot.workers, &snapshot.drains) {
            (Ok(workers), Ok(orders)) => {
                (overview(&session, workers, orders))
                @for worker in workers { (one(worker)) }
            }
            (Err(why), _) | (_, Err(why)) => (unseen("Workers", why)),
        }
    };
    let frame = Frame {
        session: &session,
        section: Section::Workers,
        title: "Workers",
        live: Some("/console/events".to_owned()),
    };
    Ok(layout::page(&frame, &content))
}

fn overview(session: &Session, workers: &[WorkerStatus], orders: &[DrainOrder]) -> Markup {
    let may = session.caller.must_operate().is_ok();
    let order = |name: &str| orders.iter().find(|order| order.worker == name);
    let away = |order: &&DrainOrder| workers.iter().all(|worker| worker.name != order.worker);
    let away: Vec<&DrainOrder> = orders.iter().filter(away).collect();
    let rows = html! {
        @for worker in workers {
            @let parked: usize = worker.parked.iter().map(|parked| parked.waiting).sum();
            @let order = order(&worker.name);
            @let state = match worker.state() {
                // It has not heard of it yet.
                "free" | "busy" if order.is_some() => "draining",
                state => state,
            };
            tr {
                th scope="row" { (text::line(&worker.name)) " " span.quiet { (text::line(&worker.version)) } }
                td {
                    (badge(state)) (given(order))
                    // Here, where it is seen on a narrow screen too.
                    // Also who is drained by an order that can't be read.
                    @if may { div { (action(session, &worker.name, order.is_some() || worker.is_draining)) } }
                }
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
        @for order in &away {
            tr {
                th scope="row" { (text::line(&order.worker)) }
                td {
                    (badge("away")) (given(Some(order)))
                    @if may { div { (action(session, &order.worker, true)) } }
                }
                td colspan="6" { "Nobody of this name lives. Whoever comes takes no tasks." }
            }
        }
        @if workers.is_empty() && away.is_empty() { (empty(8, "No worker has said anything lately.")) }
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

/// Who wants it so.
fn given(order: Option<&DrainOrder>) -> Markup {
    html! {
        @if let Some(order) = order {
            div.quiet { (text::line(&order.by)) ", " (time(order.at)) }
        }
    }
}

fn action(session: &Session, name: &str, is_drained: bool) -> Markup {
    html! {
        @if is_drained {
            form.inline method="post" action="/console/workers/resume" {
                (csrf(session))
                input type="hidden" name="name" value=(name);
                button type="submit" aria-label={ "Take back " (text::line(name)) } { "Take back" }
            }
        } @else {
            a href=(link("/console/workers/drain", &[("name", name)], None))
                aria-label={ "Drain " (text::line(name)) } { "Drain…" }
        }
    }
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

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    name: String,
}

/// What it means, before it is done.
pub(super) async fn ask_drain(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<Named>,
) -> Answer {
    session.caller.must_operate()?;
    let workers = gateway.api.workers(&session.caller).await?;
    let worker = workers.iter().find(|worker| worker.name == query.name);
    let worker = worker.ok_or_else(|| Error::NotFound("such worker any more".to_owned()))?;
    let others = workers
        .iter()
        .filter(|other| other.name != worker.name && matches!(other.state, "free" | "busy"));
    let others = others.count();
    let content = html! {
        p {
            strong { (text::line(&worker.name)) } " takes no more tasks. It finishes those that it has in hand ("
            (worker.running) " now), gives its waiting containers back, and stays up. That holds over its restarts, until "
            "somebody takes it back."
        }
        @if others == 0 {
            p.warn { "No other worker takes tasks: they will wait." }
        } @else {
            p { (others) " other " @if others == 1 { "worker takes" } @else { "workers take" } " the tasks that come." }
        }
        form method="post" action="/console/workers/drain" {
            (csrf(&session))
            input type="hidden" name="name" value=(worker.name);
            button type="submit" { "Drain " (text::line(&worker.name)) }
            " " a href="/console/workers" { "Leave it" }
        }
    };
    let frame = Frame {
        session: &session,
        section: Section::Workers,
        title: "Drain a worker?",
        live: None,
    };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn drain(State(gateway): State<Gateway>, act: Act) -> Answer {
    gateway.api.drain_worker(&act.session.caller, act.form.get("name")).await?;
    Ok(Redirect::to("/console/workers?notice=draining").into_response())
}

pub(super) async fn resume(State(gateway): State<Gateway>, act: Act) -> Answer {
    gateway.api.resume_worker(&act.session.caller, act.form.get("name")).await?;
    Ok(Redirect::to("/console/workers?notice=resumed").into_response())
}
