//! The log of a build while it is made: its lines to onlookers, and all of it to S3 every few seconds and at the end. So
//! it can be read there also when this process is killed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mecapy_bus::Live;
use mecapy_objects::{Key, Objects};
use mecapy_proto::BuildId;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::build_log::BuildLog;
use crate::live_lines;
use crate::options::Options;

/// How often it is kept while it grows; a long one less often.
const EVERY: Duration = Duration::from_secs(3);
const LONG: usize = 1 << 20;
/// How long the last lines may take to get to onlookers.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(2);

/// Dropping it ends both; [`KeptLog::end`] waits for the last lines.
#[derive(Debug)]
pub struct KeptLog {
    kept: Arc<Kept>,
    keeping: AbortOnDropHandle<()>,
    sending: JoinHandle<()>,
}

#[derive(Debug)]
struct Kept {
    log: BuildLog,
    objects: Objects,
    key: Key,
    max_bytes: usize,
    /// Bytes that were written. One write at a time: none overtakes a later one.
    written: Mutex<usize>,
}

impl KeptLog {
    pub fn begin(id: BuildId, options: &Options, objects: &Objects, live: &Live) -> Self {
        let (live, sending) = live_lines::channel(live.build_log(id));
        let max_bytes = options.max_log_bytes;
        let log = BuildLog::new(max_bytes, options.secrets(), live);
        let (objects, key) = (objects.clone(), Key::build_log(id));
        let kept = Arc::new(Kept { log, objects, key, max_bytes, written: Mutex::new(0) });
        let keeping = tokio::spawn(Arc::clone(&kept).keep_while_it_grows());
        Self { kept, keeping: AbortOnDropHandle::new(keeping), sending }
    }

    pub fn log(&self) -> &BuildLog {
        &self.kept.log
    }

    /// For another try of the same build: goes on after what is left of those before, which may have been killed.
    pub async fn go_on(&self) {
        match self.kept.objects.get(&self.kept.key, self.kept.max_bytes as u64 * 2).await {
            Ok(Some(before)) => {
                self.log().go_on_after(&String::from_utf8_lossy(&before));
            }
            Ok(None) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the log of a build begins anew: that of the try before can't be read"
                );
            }
        }
    }

    /// It grows no more, and is not kept by itself from here on: of a try that was overtaken the last lines would stand in
    /// the place of the right ones.
    pub fn is_whole(&self) {
        self.keeping.abort();
    }

    /// Writes all of it.
    pub async fn keep(&self) -> Result<(), mecapy_objects::Error> {
        self.kept.write().await
    }

    /// The last lines are on their way when this returns: before the event that ends the build.
    pub async fn end(self) {
        let Self { kept, keeping, sending } = self;
        keeping.abort();
        let _ = keeping.await;
        drop(kept);
        let _ = tokio::time::timeout(LAST_LINES_WITHIN, sending).await;
    }
}

impl Kept {
    async fn keep_while_it_grows(self: Arc<Self>) {
        let mut seen = 0;
        loop {
            let factor = u32::try_from(1 + seen / LONG).unwrap_or(u32::MAX);
            tokio::time::sleep(EVERY * factor).await;
            let length = self.log.length();
            if length == seen {
                continue;
            }
            match self.write().await {
                Ok(()) => seen = length,
                // What matters is the last time, whose failure is the build's.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "the log of a running build could not be kept");
                }
            }
        }
    }

    async fn write(&self) -> Result<(), mecapy_objects::Error> {
        let mut written = self.written.lock().await;
        let text = self.log.text();
        if text.is_empty() || text.len() == *written {
            return Ok(());
        }
        let length = text.len();
        self.objects.put(&self.key, Bytes::from(text)).await?;
        *written = length;
        Ok(())
    }
}
