//! `mecapy status`: how much work waits, and where.

use std::time::Duration;

use mecapy_bus::{dead_letters, topology};
use mecapy_service::chain;
use serde::Serialize;
use serde_json::Value;

use crate::arguments::{NamedUrl, Status};
use crate::exit::Exit;
use crate::servers::Servers;
use crate::session::Session;
use crate::table;

const READY_LIMIT: Duration = Duration::from_secs(3);

/// Each part is asked on its own, so that what can be seen is seen while another part is away.
#[derive(Debug, Default, Serialize)]
struct Report {
    services: Vec<Service>,
    queues: Vec<Queue>,
    dead_letters: Option<u64>,
    /// State to number, those that have not ended.
    builds: Vec<(String, i64)>,
    tasks: Vec<(String, i64)>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Service {
    name: String,
    ready: bool,
    /// What it waits for, or why it does not answer.
    detail: String,
}

#[derive(Debug, Serialize)]
struct Queue {
    consumer: &'static str,
    stream: &'static str,
    subject: &'static str,
    /// Not delivered yet.
    waiting: u64,
    /// Delivered, and not acknowledged yet.
    in_work: usize,
}

pub async fn run(status: Status, session: &Session) -> anyhow::Result<Exit> {
    let servers = Servers::read(session.config.as_deref())?;
    let mut report = Report::default();
    let mut exit = Exit::Done;
    for service in status.service {
        let service = ask(service).await;
        if !service.ready {
            exit = Exit::Failed;
        }
        report.services.push(service);
    }
    for problem in
        [bus(&servers, &mut report).await.err(), store(&servers, &mut report).await.err()]
            .into_iter()
            .flatten()
    {
        if exit != Exit::Unreachable {
            exit = Exit::of(&problem);
        }
        report.problems.push(format!("{problem:#}"));
    }
    session.output.show(&json(&report).to_string(), || describe(&report));
    for problem in &report.problems {
        session.output.note(&format!("error: {problem}"));
    }
    Ok(exit)
}

async fn bus(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let bus = servers.bus().await?;
    report.dead_letters = Some(dead_letters::count(&bus).await?);
    report.queues = topology::backlog(&bus)
        .await?
        .into_iter()
        .map(|(durable, waiting, in_work)| Queue {
            consumer: durable.name,
            stream: durable.stream,
            subject: durable.subject,
            waiting,
            in_work,
        })
        .collect();
    Ok(())
}

async fn store(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let pool = servers.pool().await?;
    if !mecapy_store::schema_is_current(&pool).await? {
        anyhow::bail!(
            "PostgreSQL: the schema is not there yet, or older than this program: run `mecapy setup`"
        );
    }
    report.builds = mecapy_store::builds::open_counts(&pool).await?;
    report.tasks = mecapy_store::tasks::open_counts(&pool).await?;
    Ok(())
}

async fn ask(service: NamedUrl) -> Service {
    let NamedUrl { name, url } = service;
    match readiness(&url).await {
        Ok(answer) if answer["ready"] == true => {
            Service { name, ready: true, detail: String::new() }
        }
        Ok(answer) => Service { name, ready: false, detail: missing(&answer) },
        Err(problem) => Service { name, ready: false, detail: format!("{url}: {problem}") },
    }
}

async fn readiness(url: &str) -> Result<Value, String> {
    // Admin ports are of one's own network: no proxy.
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(READY_LIMIT)
        .build()
        .map_err(|error| chain(&error))?;
    let answer = http.get(format!("{url}/readyz")).send().await.map_err(|error| chain(&error))?;
    answer.json().await.map_err(|error| chain(&error))
}

/// What a service that is not ready waits for.
fn missing(answer: &Value) -> String {
    match answer["waiting_for"].as_object() {
        Some(conditions) => conditions
            .iter()
            .map(|(name, reason)| format!("{name}: {}", reason.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join("; "),
        None if answer["stopping"] == true => "is stopping".to_owned(),
        None => "does not say why".to_owned(),
    }
}

fn json(report: &Report) -> Value {
    let counts = |counts: &[(String, i64)]| -> Value {
        counts
            .iter()
            .map(|(state, number)| (state.clone(), Value::from(*number)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    serde_json::json!({
        "services": report.services,
        "queues": report.queues,
        "dead_letters": report.dead_letters,
        "builds": counts(&report.builds),
        "tasks": counts(&report.tasks),
        "problems": report.problems,
    })
}

fn describe(report: &Report) -> String {
    let mut parts = Vec::new();
    if !report.services.is_empty() {
        let rows: Vec<Vec<String>> = report
            .services
            .iter()
            .map(|service| {
                let state = if service.ready { "ready" } else { "not ready" };
                vec![service.name.clone(), state.to_owned(), service.detail.clone()]
            })
            .collect();
        parts.push(table::render(&["service", "state", "why"], &rows));
    }
    if !report.queues.is_empty() {
        let rows: Vec<Vec<String>> = report
            .queues
            .iter()
            .map(|queue| {
                vec![
                    queue.consumer.to_owned(),
                    queue.stream.to_owned(),
                    queue.subject.to_owned(),
                    queue.waiting.to_string(),
                    queue.in_work.to_string(),
                ]
            })
            .collect();
        parts.push(table::render(&["consumer", "stream", "subject", "waiting", "in work"], &rows));
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut counts = |what: &str, counts: &[(String, i64)]| {
        rows.extend(
            counts
                .iter()
                .map(|(state, number)| vec![what.to_owned(), state.clone(), number.to_string()]),
        );
    };
    counts("builds", &report.builds);
    counts("tasks", &report.tasks);
    if let Some(number) = report.dead_letters {
        rows.push(vec!["dead letters".to_owned(), String::new(), number.to_string()]);
    }
    if !rows.is_empty() {
        parts.push(table::render(&["open", "state", "number"], &rows));
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_what_waits() {
        let report = Report {
            services: vec![Service {
                name: "worker".into(),
                ready: false,
                detail: "nats: NATS is not connected".into(),
            }],
            queues: vec![Queue {
                consumer: "builder",
                stream: "PIPELINE",
                subject: "build.requested",
                waiting: 12,
                in_work: 2,
            }],
            dead_letters: Some(1),
            builds: vec![("building".into(), 2)],
            tasks: vec![("running".into(), 3)],
            problems: Vec::new(),
        };
        let text = describe(&report);
        for line in [
            "worker   not ready  nats: NATS is not connected\n",
            "builder   PIPELINE  build.requested  12       2\n",
            "builds        building  2\n",
            "dead letters            1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(json(&report)["builds"]["building"], 2);
    }

    #[test]
    fn a_service_that_is_not_ready_says_what_it_waits_for() {
        let answer = serde_json::json!({ "ready": false, "waiting_for": { "nats": "gone", "postgres": "gone too" } });
        assert_eq!(missing(&answer), "nats: gone; postgres: gone too");
        assert_eq!(
            missing(&serde_json::json!({ "ready": false, "stopping": true })),
            "is stopping"
        );
    }
}
