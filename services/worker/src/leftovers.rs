//! Containers that nobody accounts for: of a worker that died, or of a removal that failed.

use std::time::Duration;

use mecapy_engine::Engine;
use mecapy_proto::TaskId;

use crate::execution::{TASK_LABEL, WORKER_LABEL};
use crate::pool::{PARKED_LABEL, Pool};
use crate::running::Running;
use crate::{Error, metric_definitions as metrics};

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A parked container that has ended and is older is nobody's: its worker died, and will not come back under its name.
const NOBODYS_AFTER_SECONDS: i64 = 3600;

/// Removes every container that carries this worker's name: when it starts, and when all it ran has ended.
pub(crate) async fn remove_all(engine: &Engine, worker: &str) -> Result<(), Error> {
    let removed = engine.remove_containers(&[&label(worker)]).await?;
    if !removed.is_empty() {
        metrics::swept(removed.len());
        tracing::warn!(containers = removed.len(), "removed containers that were left behind");
    }
    Ok(())
}

/// Removes from time to time what has this worker's name and is no task in hand, nor waits for one.
pub(crate) async fn watch(engine: Engine, worker: String, running: Running, pool: Pool) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Err(error) = remove_strays(&engine, &worker, &running, &pool).await {
            tracing::warn!(
                error = mecapy_service::chain(&error),
                "looking for containers left behind failed"
            );
        }
    }
}

async fn remove_strays(
    engine: &Engine,
    worker: &str,
    running: &Running,
    pool: &Pool,
) -> Result<(), Error> {
    for container in engine.containers(&[&label(worker)]).await? {
        let task = container.labels.get(TASK_LABEL).and_then(|id| id.parse::<TaskId>().ok());
        if task.is_some_and(|task| running.contains(task)) {
            continue;
        }
        if container.labels.get(PARKED_LABEL).is_some_and(|slot| pool.knows(slot)) {
            continue;
        }
        if engine.remove_container(&container.id).await? {
            metrics::swept(1);
            tracing::warn!(container = container.name, "removed a container that was left behind");
        }
    }
    let long_ago = chrono::Utc::now().timestamp() - NOBODYS_AFTER_SECONDS;
    for container in engine.containers(&[PARKED_LABEL]).await? {
        if !container.running
            && container.created_at < long_ago
            && engine.remove_container(&container.id).await?
        {
            metrics::swept(1);
            tracing::warn!(
                container = container.name,
                "removed a container of a worker that is gone"
            );
        }
    }
    Ok(())
}

fn label(worker: &str) -> String {
    format!("{WORKER_LABEL}={worker}")
}
