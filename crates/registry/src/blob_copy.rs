//! One blob on its way to the destination of a [`Copier`]: mounted, skipped where it is, or streamed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt as _;

use crate::copier::{Copier, Target};
use crate::progress::Meter;
use crate::uploads::Start;
use crate::{Descriptor, Error, ProgressSink, Source, retry};

/// A smaller blob, like a config or the layer of a function's code, is hardly ever there, and sent sooner than it is
/// looked for.
const WORTH_LOOKING_FOR: u64 = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Sent,
    Mounted,
    Skipped,
}

impl Copier {
    /// Moves the blob, unless somebody else does: then that is awaited.
    pub(crate) async fn blob(
        &self,
        from: &Source,
        to: &Target,
        blob: Descriptor,
        meter: Meter,
    ) -> Result<(Moved, u64), Error> {
        let host = self.0.to.host();
        let moved = if self.is_home(from) && from.repository == to.repository {
            Moved::Skipped
        } else {
            let _turn = self.0.holders.turn(blob.digest).await;
            let moved =
                retry::transient(host, "blob_copy", || self.blob_once(from, to, &blob, &meter))
                    .await?;
            self.0.holders.learn(blob.digest, &to.repository);
            moved
        };
        if moved != Moved::Sent {
            meter.add_bytes(blob.size);
        }
        meter.blob_done();
        Ok((moved, blob.size))
    }

    /// The blob alone.
    pub(crate) async fn bring(
        &self,
        from: &Source,
        to: &Target,
        blob: Descriptor,
    ) -> Result<(), Error> {
        let meter = Meter::new(&ProgressSink::none(), blob.size, 1);
        self.blob(from, to, blob, meter).await.map(drop)
    }

    /// Whether the source is the destination's own registry.
    fn is_home(&self, from: &Source) -> bool {
        from.registry.is_same_registry(&self.0.to)
    }

    async fn blob_once(
        &self,
        from: &Source,
        to: &Target,
        blob: &Descriptor,
        meter: &Meter,
    ) -> Result<Moved, Error> {
        let registry = &self.0.to;
        let holder = self.0.holders.get(&blob.digest);
        if holder.as_deref() == Some(to.repository.as_str()) {
            return Ok(Moved::Skipped);
        }
        // Where a mount can't but succeed, it also answers whether the blob is there, at the price of one call.
        let surest = self.is_home(from).then_some(from.repository.as_str()).or(holder.as_deref());
        let left = match surest {
            Some(surest) => match self.mount(to, blob, &[surest]).await? {
                Some(Start::Mounted) => return Ok(Moved::Mounted),
                left => match registry.blob_is_whole_once(&to.repository, blob).await {
                    Ok(false) => left,
                    // Nothing will come by the session.
                    there => {
                        self.cancel(to, left).await;
                        return there.map(|_| Moved::Skipped);
                    }
                },
            },
            None if blob.size < WORTH_LOOKING_FOR => None,
            None => {
                if registry.blob_is_whole_once(&to.repository, blob).await? {
                    return Ok(Moved::Skipped);
                }
                let elsewhere = to.mount_from.iter().map(String::as_str);
                let candidates: Vec<&str> =
                    elsewhere.filter(|repository| *repository != to.repository).collect();
                match self.mount(to, blob, &candidates).await? {
                    Some(Start::Mounted) => return Ok(Moved::Mounted),
                    left => left,
                }
            }
        };
        self.send(from, to, blob, left, meter).await
    }

    async fn cancel(&self, to: &Target, left: Option<Start>) {
        if let Some(Start::Session(session)) = left {
            self.0.to.cancel_upload(&to.repository, session).await;
        }
    }

    /// Tries each repository. A session may be left, to upload by.
    async fn mount(
        &self,
        to: &Target,
        blob: &Descriptor,
        candidates: &[&str],
    ) -> Result<Option<Start>, Error> {
        let registry = &self.0.to;
        let mut left = None;
        for repository in candidates {
            self.cancel(to, left.take()).await;
            match registry.start_upload(&to.repository, &blob.digest, Some(repository)).await {
                Ok(Start::Mounted) => return Ok(Some(Start::Mounted)),
                Ok(session) => left = Some(session),
                // It is no more than a guess that it is there, and that we may read it.
                Err(error) if error.is_unauthorized() || error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    async fn send(
        &self,
        from: &Source,
        to: &Target,
        blob: &Descriptor,
        left: Option<Start>,
        meter: &Meter,
    ) -> Result<Moved, Error> {
        let registry = &self.0.to;
        let _slot = registry.pace().slot().await;
        let start = async {
            match left {
                Some(left) => Ok(left),
                None => registry.start_upload(&to.repository, &blob.digest, None).await,
            }
        };
        // Neither end waits for the other to begin.
        let opening = from.registry.open_blob(&from.repository, blob);
        let (start, content) = futures::join!(start, opening);
        let session = match start? {
            Start::Session(session) => session,
            Start::Mounted => return Ok(Moved::Mounted),
        };
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                registry.cancel_upload(&to.repository, session).await;
                return Err(error);
            }
        };
        let counted = Arc::new(AtomicU64::new(0));
        let content = content.inspect_ok({
            let (meter, counted) = (meter.clone(), counted.clone());
            move |piece| {
                counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
                meter.add_bytes(piece.len() as u64);
            }
        });
        let result = registry.upload(&to.repository, session, blob, content).await;
        match &result {
            Ok(()) => registry.pace().fine(),
            Err(_) => meter.take_back(counted.load(Ordering::Relaxed)),
        }
        result.map(|()| Moved::Sent)
    }
}
