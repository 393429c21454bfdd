//! `mecapy workers`: who runs tasks, what each has, and who is to take none.
//!
//! The list comes from NATS, where workers tell of themselves. Orders go through the gateway, which knows who gives them
//! and keeps that on record.

use clap::Subcommand;
use mecapy_bus::{DrainOrder, Drains, WorkerStatus, Workers};

use crate::exit::{self, Exit, Stop};
use crate::gateway::{Answer, Worker};
use crate::progress::{self, Progress};
use crate::servers::Servers;
use crate::session::Session;
use crate::terminal::{clean_line, fields};
use crate::{table, watch};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Have a worker take no more tasks, also after a restart: it finishes what it has, and stays up
    #[command(after_help = exit::HELP)]
    Drain {
        /// As the list names it
        name: String,
        /// Wait until it has no task in hand any more
        #[arg(long)]
        wait: bool,
    },
    /// Have a drained worker take tasks again
    Resume {
        /// As the list names it
        name: String,
    },
}

pub async fn run(command: Option<Command>, session: &Session) -> anyhow::Result<Exit> {
    match command {
        None => list(session).await,
        Some(Command::Drain { name, wait }) => drain(&name, wait, session).await,
        Some(Command::Resume { name }) => {
            let worker = session.client()?.order_worker(&name, "resume").await?;
            session.output.show(&worker.raw, || describe_one(&worker.value));
            Ok(Exit::Done)
        }
    }
}

async fn drain(name: &str, wait: bool, session: &Session) -> anyhow::Result<Exit> {
    let client = session.client()?;
    let mut worker = client.order_worker(name, "drain").await?;
    if wait && !is_over(&worker) {
        let go_on =
            || format!("{name} takes no more tasks; to take it back: mecapy workers resume {name}");
        let work = async {
            let mut progress = Progress::new(session.output, session.quiet, progress::WORKER);
            watch::worker(&client, name, &mut progress, is_over).await.map_err(anyhow::Error::new)
        };
        worker = watch::unless_interrupted(work, go_on).await?.ok_or_else(|| {
            Stop::NotFound(format!("{name} is not there any more, and nobody wants it drained"))
        })?;
    }
    session.output.show(&worker.raw, || describe_one(&worker.value));
    if worker.value.drain.is_none() {
        session.output.note(&format!("somebody has taken {} back", clean_line(name)));
        return Ok(Exit::Failed);
    }
    session.hint(&format!("To take it back: mecapy workers resume {}", clean_line(name)));
    Ok(Exit::Done)
}

/// Nothing runs on it any more, or nobody wants it drained any more.
fn is_over(worker: &Answer<Worker>) -> bool {
    worker.value.drain.is_none() || matches!(worker.value.state.as_str(), "drained" | "away")
}

fn describe_one(worker: &Worker) -> String {
    let mut rows = vec![
        ("worker", clean_line(&worker.name)),
        ("state", worker.state.clone()),
        ("tasks", format!("{}/{}", worker.running, worker.slots)),
    ];
    rows.extend(
        worker.drain.as_ref().map(|drain| ("drained by", format!("{}, {}", drain.by, drain.at))),
    );
    fields(&rows)
}

async fn list(session: &Session) -> anyhow::Result<Exit> {
    let bus = Servers::read(session.config.as_deref())?.bus().await?;
    let workers = Workers::new(bus.clone()).list().await?;
    session.output.show(&serde_json::to_string(&workers)?, || describe(&workers));
    if workers.is_empty() {
        session.hint("No worker has said anything lately.");
    }
    for order in away(&workers, Drains::new(bus).list().await?) {
        let name = clean_line(&order.worker);
        session.hint(&format!(
            "{name} is not there, and takes no tasks when it comes: {} has drained it. To lift that: mecapy workers resume {name}",
            clean_line(&order.by)
        ));
    }
    Ok(Exit::Done)
}

/// Orders of which nobody is there.
fn away(workers: &[WorkerStatus], mut orders: Vec<DrainOrder>) -> Vec<DrainOrder> {
    orders.retain(|order| workers.iter().all(|worker| worker.name != order.worker));
    orders
}

fn describe(workers: &[WorkerStatus]) -> String {
    let rows: Vec<Vec<String>> = workers
        .iter()
        .map(|worker| {
            let parked: usize = worker.parked.iter().map(|parked| parked.waiting).sum();
            vec![
                worker.name.clone(),
                worker.state().to_owned(),
                format!("{}/{}", worker.running, worker.slots),
                worker.images.len().to_string(),
                format!("{} MiB", worker.image_bytes >> 20),
                format!("{parked} for {}", worker.parked.len()),
                registries(worker),
                worker.version.clone(),
            ]
        })
        .collect();
    let header = ["worker", "state", "tasks", "images", "size", "parked", "registries", "version"];
    table::render(&header, &rows)
}

/// Those that are not asked in their turn, by name.
fn registries(worker: &WorkerStatus) -> String {
    let away: Vec<String> = worker
        .registries
        .iter()
        .filter(|registry| registry.breaker != "closed")
        .map(|registry| format!("{} {}", registry.host, registry.breaker))
        .collect();
    if away.is_empty() { "all asked".to_owned() } else { away.join(", ") }
}

#[cfg(test)]
mod tests {
    use mecapy_bus::{ParkedStatus, RegistryStatus};

    use super::*;

    #[test]
    fn a_worker_is_a_line() {
        let registry = |host: &str, breaker: &str| RegistryStatus {
            host: host.to_owned(),
            breaker: breaker.to_owned(),
        };
        let parked = |waiting| ParkedStatus { waiting, ..ParkedStatus::default() };
        let worker = WorkerStatus {
            name: "one:9100".to_owned(),
            version: "0.1.0".to_owned(),
            slots: 2,
            running: 1,
            images: vec!["sha256:x".to_owned()],
            image_bytes: 5 << 20,
            parked: vec![parked(2), parked(1)],
            registries: vec![registry("a:5000", "open"), registry("b:5000", "closed")],
            ..WorkerStatus::default()
        };
        let text = describe(&[worker]);
        assert!(
            text.ends_with(
                "\none:9100  free   1/2    1       5 MiB  3 for 2  a:5000 open  0.1.0\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn who_waits_for_a_drain_waits_until_nothing_runs_or_somebody_lifts_it() {
        let worker = |state: &str, drained: bool| {
            let drain =
                if drained { r#"{"by":"ops","at":"2025-10-05T02:00:00Z"}"# } else { "null" };
            let raw = format!(
                r#"{{"name":"a","state":"{state}","running":1,"slots":2,"drain":{drain}}}"#
            );
            Answer { value: serde_json::from_str(&raw).unwrap(), raw }
        };
        assert!(!is_over(&worker("draining", true)));
        assert!(!is_over(&worker("stopping", true)), "it still runs something");
        assert!(is_over(&worker("drained", true)) && is_over(&worker("away", true)));
        assert!(is_over(&worker("free", false)));
        assert_eq!(
            describe_one(&worker("draining", true).value),
            "worker      a\nstate       draining\ntasks       1/2\ndrained by  ops, 2025-10-05T02:00:00Z\n"
        );
    }

    #[test]
    fn an_order_without_its_worker_is_told_of() {
        let status = WorkerStatus { name: "a".to_owned(), ..WorkerStatus::default() };
        let order =
            |worker: &str| DrainOrder { worker: worker.to_owned(), ..DrainOrder::default() };
        assert_eq!(away(&[status], vec![order("a"), order("b")]), [order("b")]);
    }
}
