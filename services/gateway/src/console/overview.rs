//! The chain as lanes: what is where, how fast it goes, what waits, and who is there.

use axum::extract::State;
use maud::{Markup, html};
use mecapy_bus::topology;
use mecapy_store::console::figures::Spread;

use super::layout::{self, Frame, Section};
use super::parts::{badge, empty, table, time, unseen};
use super::problem::Answer;
use super::text::{self, duration};
use crate::api::{ConsumerBacklog, Session, Snapshot, Work};
use crate::{Gateway, Role};

/// Every service, also one of which no replica is there.
const SERVICES: &[&str] =
    &["gateway", "builder", "scanner", "publisher", "worker", "mirror", "janitor", "notifier"];

pub(super) async fn page(State(gateway): State<Gateway>, session: Session) -> Answer {
    let caller = &session.caller;
    let content = if caller.role == Role::Owner {
        let work = gateway.api.work(caller).await?;
        html! {
            (lanes(&work, None))
            (hour(&work))
        }
    } else {
        let snapshot = gateway.api.snapshot(caller).await?;
        html! {
            (lanes(&snapshot.work, Some(&snapshot.backlog)))
            (hour(&snapshot.work))
            (letters(&snapshot))
            (services(&snapshot))
            (consumers(&snapshot))
        }
    };
    let frame = Frame {
        session: &session,
        section: Section::Overview,
        title: "Overview",
        live: Some("/console/events".to_owned()),
    };
    Ok(layout::page(&frame, &content))
}

/// One stage: how many are in it, and how long it takes.
struct Lane<'l> {
    name: &'l str,
    link: String,
    count: Option<i64>,
    took: Spread,
    /// Whose messages it waits for.
    consumer: Option<topology::Durable>,
}

fn lanes(work: &Work, backlog: Option<&ConsumerBacklog>) -> Markup {
    let count = |open: &[(String, i64)], state: &str| {
        Some(open.iter().find(|(of, _)| of == state).map_or(0, |(_, count)| *count))
    };
    let build = |name, state: &str, took, consumer| Lane {
        name,
        link: format!("/console/builds?state={state}"),
        count: count(&work.open_builds, state),
        took,
        consumer,
    };
    let task = |name, state: &str, took, consumer| Lane {
        name,
        link: format!("/console/tasks?state={state}"),
        count: count(&work.open_tasks, state),
        took,
        consumer,
    };
    let (builds, tasks) = (&work.builds, &work.tasks);
    let ready = Lane {
        name: "Ready, last hour",
        link: "/console/builds?state=ready".to_owned(),
        count: Some(builds.ready),
        took: builds.whole,
        consumer: None,
    };
    let ended = Lane {
        name: "Succeeded, last hour",
        link: "/console/tasks?state=succeeded".to_owned(),
        count: Some(tasks.succeeded),
        took: tasks.whole,
        consumer: None,
    };
    let of_builds = [
        build("Requested", "queued", builds.queue, Some(topology::BUILDER)),
        build("Building", "building", builds.build, None),
        build("Scanning", "scanning", builds.scan, Some(topology::SCANNER)),
        build("Publishing", "publishing", builds.publish, Some(topology::PUBLISHER)),
        ready,
    ];
    let of_tasks = [
        task("Queued", "queued", tasks.queue, Some(topology::WORKER)),
        task("Running", "running", tasks.run, None),
        ended,
    ];
    html! {
        section #lanes data-part {
            h2 { "Builds" }
            ol.lanes { @for lane in &of_builds { (show(lane, backlog)) } }
            h2 { "Tasks" }
            ol.lanes { @for lane in &of_tasks { (show(lane, backlog)) } }
        }
    }
}

fn show(lane: &Lane<'_>, backlog: Option<&ConsumerBacklog>) -> Markup {
    let waiting = lane.consumer.zip(backlog.and_then(|seen| seen.as_ref().ok()));
    let waiting = waiting.and_then(|(consumer, seen)| {
        seen.iter()
            .find(|(of, ..)| *of == consumer)
            .map(|(_, waiting, in_work)| (*waiting, *in_work))
    });
    html! {
        li.lane {
            a href=(lane.link) {
                span.name { (lane.name) }
                span.count { @match lane.count { Some(count) => (count), None => "–" } }
            }
            span.quiet { "p50 " (ms(lane.took.p50_ms)) ", p95 " (ms(lane.took.p95_ms)) }
            @if let Some((waiting, in_work)) = waiting {
                span.quiet { (waiting) " messages wait, " (in_work) " in work" }
            }
        }
    }
}

fn ms(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), duration)
}

fn hour(work: &Work) -> Markup {
    let (builds, tasks) = (&work.builds, &work.tasks);
    let row = |what: &str, counts: Markup, took: Spread| {
        html! {
            tr {
                th scope="row" { (what) }
                td { (counts) }
                td.number { (ms(took.p50_ms)) }
                td.number { (ms(took.p95_ms)) }
            }
        }
    };
    let rows = html! {
        (row("Builds, to ready", html! {
            (builds.asked) " asked for, " (builds.ready) " ready, "
            a href="/console/builds?state=failed" { (builds.failed) " failed" } ", "
            a href="/console/builds?state=rejected" { (builds.rejected) " rejected" }
        }, builds.whole))
        (row("Tasks, to their end", html! {
            (tasks.asked) " asked for (" (format!("{:.1}", tasks.per_minute)) " a minute), "
            (tasks.succeeded) " succeeded, " (tasks.failed) " ended otherwise, "
            (tasks.hits) " with the image there, "
            a href="/console/tasks?cache=FAILOVER" { (tasks.failovers) " from the fallback" }
        }, tasks.whole))
        (row("Tasks, to their start", html! {}, tasks.queue))
    };
    table("hour", "The last hour", &["What", "How many", "p50", "p95"], &rows)
}

fn letters(snapshot: &Snapshot) -> Markup {
    html! {
        div #letters data-part {
            @match &snapshot.dead_letters {
                Ok(0) => p.quiet { "There are no dead letters." },
                Ok(count) => p.warn {
                    a href="/console/dead-letters" { (count) " dead letters" } " wait for somebody to look."
                },
                Err(why) => (unseen("Dead letters", why)),
            }
        }
    }
}

fn services(snapshot: &Snapshot) -> Markup {
    let replicas = match &snapshot.replicas {
        Ok(replicas) => replicas,
        Err(why) => {
            return html! { div #services data-part { h2 { "Services" } (unseen("Services", why)) } };
        }
    };
    let mut names: Vec<&str> = SERVICES.to_vec();
    names.extend(replicas.iter().map(|replica| replica.service.as_str()));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(*name));
    let rows = html! {
        @for name in names {
            @let of: Vec<_> = replicas.iter().filter(|replica| replica.service == name).collect();
            @if of.is_empty() {
                tr { th scope="row" { (text::line(name)) } td { (badge("not ready")) } td colspan="3" { "no replica has said anything lately" } }
            }
            @for replica in of {
                @let state = match () {
                    () if replica.is_stopping => "stopping",
                    () if replica.waiting_for.is_empty() => "ready",
                    () => "not ready",
                };
                tr {
                    th scope="row" { (text::line(&replica.service)) }
                    td { (badge(state)) }
                    td { (text::line(&replica.replica)) " " span.quiet { (text::line(&replica.version)) } }
                    td { (time(replica.started_at)) }
                    td {
                        @for (what, why) in &replica.waiting_for { div { (text::line(what)) ": " (text::line(why)) } }
                    }
                }
            }
        }
    };
    table("services", "Services", &["Service", "State", "Replica", "Since", "Waits for"], &rows)
}

fn consumers(snapshot: &Snapshot) -> Markup {
    let backlog = match &snapshot.backlog {
        Ok(backlog) => backlog,
        Err(why) => return html! { div #consumers data-part { (unseen("Consumers", why)) } },
    };
    let rows = html! {
        @for (durable, waiting, in_work) in backlog {
            tr {
                th scope="row" { (durable.name) }
                td { (durable.stream) " " span.quiet { (durable.subject) } }
                td.number { (waiting) }
                td.number { (in_work) }
            }
        }
        @if backlog.is_empty() { (empty(4, "There are none.")) }
    };
    table("consumers", "Consumers", &["Consumer", "Of", "Messages that wait", "In work"], &rows)
}
