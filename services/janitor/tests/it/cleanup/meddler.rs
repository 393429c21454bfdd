//! An inventory in whose work somebody meddles: what happens between plan and deletion, and who dies when.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use mecapy_registry::{
    Deleted, Deletion, Digest, DistributionInventory, Elsewhere, Error, Inventory, Known, Manifest,
    Registry, StoredManifest,
};
use tokio::sync::Notify;

type Hook = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

pub struct Meddler {
    inner: DistributionInventory,
    /// Before the first manifest is read to be deleted: the plan is made by then.
    before_first: Option<Hook>,
    /// After each deletion, before the run learns of it.
    after_delete: Option<Hook>,
    /// After so many deletions, the next one never comes back.
    hangs_after: Option<usize>,
    pub hangs: Notify,
    /// Nothing can be put back.
    pub has_lost_blobs: bool,
    raws: AtomicUsize,
    deletions: AtomicUsize,
}

impl Meddler {
    pub fn new(inner: DistributionInventory) -> Self {
        Self {
            inner,
            before_first: None,
            after_delete: None,
            hangs_after: None,
            hangs: Notify::new(),
            has_lost_blobs: false,
            raws: AtomicUsize::new(0),
            deletions: AtomicUsize::new(0),
        }
    }

    pub fn before_first(mut self, hook: Hook) -> Self {
        self.before_first = Some(hook);
        self
    }

    pub fn after_delete(mut self, hook: Hook) -> Self {
        self.after_delete = Some(hook);
        self
    }

    pub fn hanging_after(mut self, deletions: usize) -> Self {
        self.hangs_after = Some(deletions);
        self
    }

    pub fn deletions(&self) -> usize {
        self.deletions.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl Inventory for Meddler {
    fn registry(&self) -> &Registry {
        self.inner.registry()
    }

    async fn repositories(&self) -> Result<Vec<String>, Error> {
        self.inner.repositories().await
    }

    async fn manifests(
        &self,
        repository: &str,
        known: Known<'_>,
    ) -> Result<Vec<StoredManifest>, Error> {
        self.inner.manifests(repository, known).await
    }

    async fn raw(&self, repository: &str, digest: &Digest) -> Result<Manifest, Error> {
        if self.raws.fetch_add(1, Ordering::SeqCst) == 0
            && let Some(hook) = &self.before_first
        {
            hook().await;
        }
        self.inner.raw(repository, digest).await
    }

    async fn delete_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        tags: &[String],
        elsewhere: Elsewhere<'_>,
    ) -> Result<Deleted, Error> {
        self.inner.delete_manifest(repository, digest, tags, elsewhere).await
    }

    async fn delete_tag(
        &self,
        repository: &str,
        tag: &str,
        digest: &Digest,
    ) -> Result<Deleted, Error> {
        self.inner.delete_tag(repository, tag, digest).await
    }

    async fn delete_beside(
        &self,
        repository: &str,
        deletion: &Deletion,
        elsewhere: Elsewhere<'_>,
    ) -> Result<Deleted, Error> {
        if self.hangs_after.is_some_and(|after| self.deletions() >= after) {
            self.hangs.notify_one();
            std::future::pending::<()>().await;
        }
        let deleted = self.inner.delete_beside(repository, deletion, elsewhere).await?;
        if deleted == Deleted::Done {
            self.deletions.fetch_add(1, Ordering::SeqCst);
            if let Some(hook) = &self.after_delete {
                hook().await;
            }
        }
        Ok(deleted)
    }

    async fn restore(
        &self,
        repository: &str,
        manifest: &Manifest,
        tags: &[String],
    ) -> Result<(), Error> {
        if self.has_lost_blobs {
            let subject = "blob".to_owned();
            return Err(Error::NotFound { host: "test".to_owned(), subject });
        }
        self.inner.restore(repository, manifest, tags).await
    }
}
