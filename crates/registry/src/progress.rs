//! How far a copy is, told while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The state of one copy. Bytes and blobs that are mounted or already there count as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub blobs_done: u64,
    pub blobs_total: u64,
}

type Callback = dyn Fn(Progress) + Send + Sync;

/// Receives the progress of a copy. Called from the copy's own tasks for every piece moved, so it
/// must be quick and must not block.
#[derive(Clone, Default)]
pub struct ProgressSink(Option<Arc<Callback>>);

impl ProgressSink {
    pub fn new(callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(callback)))
    }

    /// For a copy that nobody watches.
    pub fn none() -> Self {
        Self(None)
    }
}

/// Counts one copy and tells its sink.
#[derive(Clone)]
pub(crate) struct Meter {
    sink: ProgressSink,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    bytes_done: AtomicU64,
    bytes_total: u64,
    blobs_done: AtomicU64,
    blobs_total: u64,
}

impl Meter {
    pub(crate) fn new(sink: &ProgressSink, bytes_total: u64, blobs_total: u64) -> Self {
        let counts = Counts { bytes_total, blobs_total, ..Counts::default() };
        let meter = Self { sink: sink.clone(), counts: Arc::new(counts) };
        meter.tell();
        meter
    }

    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.counts.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    /// Takes back the bytes of a blob that has to start again.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.counts.bytes_done.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn blob_done(&self) {
        self.counts.blobs_done.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        if let Some(callback) = &self.sink.0 {
            callback(Progress {
                bytes_done: self.counts.bytes_done.load(Ordering::Relaxed),
                bytes_total: self.counts.bytes_total,
                blobs_done: self.counts.blobs_done.load(Ordering::Relaxed),
                blobs_total: self.counts.blobs_total,
            });
        }
    }
}
