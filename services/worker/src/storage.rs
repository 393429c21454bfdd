//! What a run leaves, and where: streams and result on S3 under the attempt, the result once more in the
//! key-value bucket.
//!
//! The order, and why a crash after any step is harmless:
//! 1. S3. Under the attempt's own keys: nobody reads them before the row names the attempt as the one that
//!    counts, and an attempt that comes late overwrites nothing.
//! 2. The transaction: row, usage, `task.done`. Before it, the task runs again; from it on, it has ended.
//! 3. The key-value bucket, whose key is the task's alone: only after the row says for good that this attempt is
//!    the one. Earlier, an attempt that is overtaken at the last moment could leave its result there in the place of
//!    the right one. If it is never written, readers take the result from S3.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mecapy_bus::Results;
use mecapy_engine::Capped;
use mecapy_objects::{Key, Objects};
use mecapy_proto::TaskId;
use mecapy_store::{PgPool, TaskState, tasks};

use crate::Error;
use crate::patience::patiently;

/// How long the commit is waited for, before the bucket is left without the result.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);

/// Step 1. The result's key, if there is a result.
pub(crate) async fn keep(
    objects: &Objects,
    id: TaskId,
    attempt: i32,
    (stdout, stderr): (&Capped, &Capped),
    result: Option<&Bytes>,
) -> Result<Option<String>, Error> {
    let put = |key: Key, body: Bytes| async move {
        patiently("writing to S3", || objects.put(&key, body.clone())).await.map(|()| key)
    };
    let result = async {
        match result {
            Some(result) => put(Key::task_result(id, attempt), result.clone()).await.map(Some),
            None => Ok(None),
        }
    };
    let (_, _, key) = futures::try_join!(
        put(Key::task_stdout(id, attempt), text(stdout)),
        put(Key::task_stderr(id, attempt), text(stderr)),
        result,
    )?;
    Ok(key.map(|key| key.to_string()))
}

/// A stream as it is kept: its bytes, with a note where some are left out.
fn text(stream: &Capped) -> Bytes {
    if stream.is_truncated() { stream.text().into() } else { stream.head.clone() }
}

/// Step 3. Waits until the row has this attempt's success.
pub(crate) async fn offer(
    results: Arc<Results>,
    pool: PgPool,
    id: TaskId,
    attempt: i32,
    result: Bytes,
) {
    let mut pause = Duration::from_millis(3);
    let offer = async {
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
            match tasks::get(&pool, id).await {
                Ok(Some(task)) if task.state == TaskState::Succeeded && task.attempt == attempt => {
                    return results.put(id, result).await.map_err(|error| error.to_string());
                }
                Ok(Some(task)) if !task.state.is_final() && task.attempt == attempt => {}
                Ok(_) => return Ok(()),
                Err(error) => tracing::debug!(%error, "waiting for a commit"),
            }
        }
    };
    let offered = tokio::time::timeout(COMMIT_WITHIN, offer).await;
    if let Err(problem) = offered.unwrap_or_else(|_| Err("the commit did not come".to_owned())) {
        tracing::warn!(task.id = %id, problem, "a result is on S3 only");
    }
}
