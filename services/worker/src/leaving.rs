//! The memory of containers that waited and are on their way out. It is theirs until they are gone, which takes a while:
//! who counted it as free no longer held, and not as free yet, would send more and more away for one shortage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A handle; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaving(Arc<AtomicU64>);

/// Bytes of one container, until this is dropped.
#[derive(Debug)]
pub(crate) struct Leaves {
    all: Leaving,
    bytes: u64,
}

impl Leaving {
    pub(crate) fn begin(&self, bytes: u64) -> Leaves {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Leaves { all: self.clone(), bytes }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Leaves {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
