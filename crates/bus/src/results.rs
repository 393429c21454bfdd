//! Results of tasks in a key-value bucket, for an hour: quicker to get at than S3.

use bytes::Bytes;
use mecapy_proto::TaskId;

use crate::bucket::Bucket;
use crate::topology::TASK_RESULTS;
use crate::{Bus, Error};

/// What fits well into a NATS message (1 MiB); more is on S3 only.
pub const MAX_RESULT_BYTES: usize = 512 * 1024;

#[derive(Debug)]
pub struct Results(Bucket);

impl Results {
    pub fn new(bus: Bus) -> Self {
        Self(Bucket::new(bus, TASK_RESULTS))
    }

    /// Keeps a result; one that is too large is left out, since S3 has it.
    pub async fn put(&self, task: TaskId, result: Bytes) -> Result<(), Error> {
        if result.len() > MAX_RESULT_BYTES {
            return Ok(());
        }
        self.0.put(task.to_string(), result).await
    }

    pub async fn get(&self, task: TaskId) -> Result<Option<Bytes>, Error> {
        self.0.get(task.to_string()).await
    }
}
