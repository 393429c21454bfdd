//! An upload's body, seen from outside of the HTTP client that reads it: what moved, and why it ended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use reqwest::Body;

use crate::patience::LEAST;
use crate::{Error, metric_definitions as metrics};

/// What an upload's body did so far.
#[derive(Clone, Default)]
pub(crate) struct Watched {
    moved: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Watched {
    pub(crate) fn body(
        &self,
        host: &str,
        content: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    ) -> Body {
        let watched = self.clone();
        let sent = metrics::sent(host);
        Body::wrap_stream(content.map(move |piece| match piece {
            Ok(piece) => {
                watched.moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
                sent.increment(piece.len() as u64);
                Ok(piece)
            }
            Err(error) => {
                *watched.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(io::Error::other("the source of the upload failed"))
            }
        }))
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// `None` when hardly a byte of the `size` moved for as long as `limit`.
    pub(crate) async fn until_stalled<T>(
        &self,
        limit: Duration,
        size: u64,
        sending: impl Future<Output = T>,
    ) -> Option<T> {
        let mut sending = std::pin::pin!(sending);
        let mut before = self.moved.load(Ordering::Relaxed);
        loop {
            if let Ok(result) = tokio::time::timeout(limit, &mut sending).await {
                return Some(result);
            }
            let now = self.moved.load(Ordering::Relaxed);
            // The end of a blob may be small, and from then on the time is the registry's.
            let is_at_its_end = now > before && now >= size;
            if now - before < LEAST && !is_at_its_end {
                return None;
            }
            before = now;
        }
    }
}
