//! What a run leaves, and where: streams and result on S3 under the attempt, the result once more in the
//! key-value bucket.
//!
//! The order, and why a crash after any step is harmless:
//! 1. S3. Under the attempt's own keys: nobody reads them before the row names the attempt as the one that
//!    counts, and an attempt that comes late overwrites nothing.
//!    A stream that nothing was written to has no object.
//! 2. The transaction: row, usage, `task.done`. Before it, the task runs again; from it on, it has ended.
//! 3. The key-value bucket, whose key is the task's alone: only after the row says for good that this attempt is
//!    the one. Earlier, an attempt that is overtaken at the last moment could leave its result there in the place of
//!    the right one. If it is never written, readers take the result from S3.

use bytes::Bytes;
use mecapy_bus::Results;
use mecapy_engine::Capped;
use mecapy_objects::{Key, Objects};
use mecapy_proto::TaskId;

use crate::Error;
use crate::patience::patiently;

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
    let stream = |key: Key, stream: &Capped| {
        let text = text(stream);
        async move { if text.is_empty() { Ok(()) } else { put(key, text).await.map(drop) } }
    };
    let (_, _, key) = futures::try_join!(
        stream(Key::task_stdout(id, attempt), stdout),
        stream(Key::task_stderr(id, attempt), stderr),
        result,
    )?;
    Ok(key.map(|key| key.to_string()))
}

/// A stream as it is kept: its bytes, with a note where some are left out.
fn text(stream: &Capped) -> Bytes {
    if stream.is_truncated() { stream.text().into() } else { stream.head.clone() }
}

/// Step 3, after the commit.
pub(crate) async fn offer(results: &Results, id: TaskId, result: Bytes) {
    if let Err(error) = results.put(id, result).await {
        let error = mecapy_service::chain(&error);
        tracing::warn!(task.id = %id, error, "a result is on S3 only");
    }
}
