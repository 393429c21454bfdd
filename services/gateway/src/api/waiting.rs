//! Holding a call until a build or a task has ended.

use std::future::Future;
use std::time::Duration;

use mecapy_proto::{BuildId, TaskId};
use mecapy_store::{builds, tasks};
use tokio::time::Instant;
use uuid::Uuid;

use super::Api;
use crate::Error;

/// Longest that a call is held.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(300);

impl Api {
    /// Returns when the build has ended, or the time is over.
    pub(super) async fn wait_for_build(&self, id: BuildId, limit: Duration) -> Result<(), Error> {
        self.wait(id.uuid(), limit, || async move {
            let build = builds::get(&self.0.pool, id).await?;
            Ok(build.is_none_or(|build| build.state.is_final()))
        })
        .await
    }

    /// The same for a task.
    pub(super) async fn wait_for_task(&self, id: TaskId, limit: Duration) -> Result<(), Error> {
        self.wait(id.uuid(), limit, || async move {
            let task = tasks::get(&self.0.pool, id).await?;
            Ok(task.is_none_or(|task| task.state.is_final()))
        })
        .await
    }

    async fn wait<F, Fut>(&self, id: Uuid, limit: Duration, mut has_ended: F) -> Result<(), Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<bool, Error>>,
    {
        if limit.is_zero() {
            return Ok(());
        }
        let end = Instant::now() + limit.min(MAX_WAIT);
        let mut wakeup = self.0.hub.subscribe(id);
        loop {
            match has_ended().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // The database is away for a moment: the call is held on.
                Err(error) if error.is_transient() => tracing::debug!(%error, "looking again"),
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = wakeup.woken() => {}
                () = tokio::time::sleep(self.0.look_every) => {}
                () = tokio::time::sleep_until(end) => return Ok(()),
                () = self.0.shutdown.cancelled() => return Ok(()),
            }
        }
    }
}
