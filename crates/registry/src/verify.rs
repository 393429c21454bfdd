//! Reading an image back, to see that a registry still has every byte of it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};

use crate::copy_plan::Plan;
use crate::registry::Registry;
use crate::{Descriptor, Digest, Error};

/// Images are read beside copies, so with fewer streams.
const STREAMS: usize = 4;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub blobs: u64,
    /// Read and hashed now; shared blobs that an image before had, too, are not read again.
    pub bytes_read: u64,
}

/// Verifies images of one registry. It reads each blob once, however many images share it.
pub struct Verifier {
    registry: Registry,
    right: Mutex<BTreeSet<Digest>>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Verifier").field(&self.registry).finish()
    }
}

impl Verifier {
    pub fn new(registry: Registry) -> Self {
        Self { registry, right: Mutex::default() }
    }

    /// Reads manifests and blobs to their ends. An error that is neither transient nor about access says that the
    /// image is not what it should be.
    pub async fn verify(&self, repository: &str, digest: &Digest) -> Result<Verified, Error> {
        let plan = Plan::read(&self.registry, repository, digest).await?;
        let blobs = plan.blobs(&plan.digests());
        let mut verified = Verified { blobs: blobs.len() as u64, bytes_read: 0 };
        let reads: Vec<_> = blobs
            .into_iter()
            .map(|blob| async move { self.read(repository, &blob).await })
            .collect();
        let mut reads = futures::stream::iter(reads).buffer_unordered(STREAMS);
        while let Some(bytes) = reads.try_next().await? {
            verified.bytes_read += bytes;
        }
        Ok(verified)
    }

    async fn read(&self, repository: &str, blob: &Descriptor) -> Result<u64, Error> {
        let is_known = self.lock().contains(&blob.digest);
        if is_known {
            // The bytes are one; that this repository leads to them is another thing.
            return match self.registry.blob_exists(repository, &blob.digest).await? {
                true => Ok(0),
                false => Err(Error::NotFound {
                    host: self.registry.host().to_owned(),
                    subject: crate::blobs::subject(repository, &blob.digest),
                }),
            };
        }
        // What is stored is asked for, though the manifest may hold it too.
        let stored = Descriptor { data: None, ..blob.clone() };
        let mut content = self.registry.blob(repository, &stored).await?;
        while content.try_next().await?.is_some() {}
        self.lock().insert(blob.digest);
        Ok(blob.size)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<Digest>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
