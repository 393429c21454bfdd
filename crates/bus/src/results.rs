//! Results of tasks in a key-value bucket, for an hour: quicker to get at than S3.

use async_nats::jetstream::kv;
use bytes::Bytes;
use mecapy_proto::TaskId;
use tokio::sync::OnceCell;

use crate::topology::TASK_RESULTS;
use crate::{Bus, Error};

/// What fits well into a NATS message (1 MiB); more is on S3 only.
pub const MAX_RESULT_BYTES: usize = 512 * 1024;

#[derive(Debug)]
pub struct Results {
    bus: Bus,
    store: OnceCell<kv::Store>,
}

impl Results {
    pub fn new(bus: Bus) -> Self {
        Self { bus, store: OnceCell::new() }
    }

    async fn store(&self) -> Result<&kv::Store, Error> {
        self.store
            .get_or_try_init(|| async {
                self.bus
                    .jetstream
                    .get_key_value(TASK_RESULTS)
                    .await
                    .map_err(|_| Error::NotSetUp(format!("bucket {TASK_RESULTS}")))
            })
            .await
    }

    /// Keeps a result; one that is too large is left out, since S3 has it.
    pub async fn put(&self, task: TaskId, result: Bytes) -> Result<(), Error> {
        if result.len() > MAX_RESULT_BYTES {
            return Ok(());
        }
        let key = task.to_string();
        self.store()
            .await?
            .put(key, result)
            .await
            .map_err(|error| Error::jetstream(TASK_RESULTS, error))?;
        Ok(())
    }

    pub async fn get(&self, task: TaskId) -> Result<Option<Bytes>, Error> {
        self.store()
            .await?
            .get(task.to_string())
            .await
            .map_err(|error| Error::jetstream(TASK_RESULTS, error))
    }
}
