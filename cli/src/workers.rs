//! `mecapy workers`: who runs tasks, and what each has.

use mecapy_bus::{WorkerStatus, Workers};

use crate::exit::Exit;
use crate::servers::Servers;
use crate::session::Session;
use crate::table;

pub async fn run(session: &Session) -> anyhow::Result<Exit> {
    let servers = Servers::read(session.config.as_deref())?;
    let workers = Workers::new(servers.bus().await?).list().await?;
    session.output.show(&serde_json::to_string(&workers)?, || describe(&workers));
    if workers.is_empty() {
        session.hint("No worker has said anything lately.");
    }
    Ok(Exit::Done)
}

fn describe(workers: &[WorkerStatus]) -> String {
    let rows: Vec<Vec<String>> = workers
        .iter()
        .map(|worker| {
            let parked: usize = worker.parked.iter().map(|parked| parked.waiting).sum();
            vec![
                worker.name.clone(),
                state(worker).to_owned(),
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

fn state(worker: &WorkerStatus) -> &'static str {
    match () {
        () if worker.is_stopping => "stopping",
        () if worker.running >= worker.slots => "busy",
        () => "free",
    }
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
}
