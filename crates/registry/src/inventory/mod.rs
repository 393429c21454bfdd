//! What a registry holds, whatever API it tells that by, and how a part of it is deleted.
//!
//! The three kinds: [`DistributionInventory`] (the registry API itself), [`ScalewayInventory`], and
//! [`GhcrInventory`] (GitHub's Packages API).
//! All three read manifests by the registry API (`reader.rs`): the others tell digests and tags alone.

mod distribution;
mod ghcr;
mod reader;
mod rest;
mod restore;
mod scaleway;
mod throw_away;

use chrono::{DateTime, Utc};

use crate::{Descriptor, Digest, Error, Manifest, Registry};

pub use distribution::DistributionInventory;
pub use ghcr::GhcrInventory;
pub use scaleway::ScalewayInventory;

/// One manifest with every tag that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    pub digest: Digest,
    pub media_type: String,
    /// Of the manifest itself.
    pub size: u64,
    pub tags: Vec<String>,
    /// When it came, where the registry tells. None: nobody knows, so whoever deletes goes by when it was first seen.
    pub pushed_at: Option<DateTime<Utc>>,
    pub holds: Holds,
    /// The manifest that this one refers to (SBOM, report, provenance). Also the one that the tag `sha256-<hex>` of
    /// an index of referrers names.
    pub subject: Option<Digest>,
}

/// What a manifest needs to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index { children: Vec<Digest> },
}

/// One thing to delete, with what it must be when it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The manifest and all its tags, which must be exactly these.
    Manifest { digest: Digest, tags: Vec<String> },
    /// This tag alone, which must lead to this digest; other tags of the digest stay.
    Tag { tag: String, digest: Digest },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    Done,
    /// It was gone already, which is as good.
    Absent,
    /// It is no longer what it was planned to be; nothing was done.
    Changed {
        reason: String,
    },
    /// The registry does not allow this one to be deleted.
    Refused {
        reason: String,
    },
}

/// Whether a deletion was made, or may have been: the same one again finishes it. Otherwise nothing may be left of the
/// steps before it.
fn is_under_way(deleted: &Result<Deleted, Error>) -> bool {
    match deleted {
        Ok(Deleted::Done | Deleted::Absent) => true,
        Ok(Deleted::Changed { .. } | Deleted::Refused { .. }) => false,
        Err(error) => error.is_transient(),
    }
}

/// What was read before, by digest.
pub type Known<'a> = &'a (dyn Fn(&Digest) -> Option<StoredManifest> + Sync);

/// Tags that led to other manifests a moment ago, and are not asked again.
pub type Elsewhere<'a> = &'a (dyn Fn(&str) -> bool + Sync);

/// Lists and deletes. Every call is paged, retried and bounded by the implementation.
#[async_trait::async_trait]
pub trait Inventory: Send + Sync {
    /// Where manifests are read and put.
    fn registry(&self) -> &Registry;

    /// All repositories, also those whose images are all gone.
    async fn repositories(&self) -> Result<Vec<String>, Error>;

    /// Every manifest of a repository that can be found: tagged ones, children of indexes, referrers. What `known`
    /// has under a digest is not read again.
    async fn manifests(
        &self,
        repository: &str,
        known: Known<'_>,
    ) -> Result<Vec<StoredManifest>, Error>;

    /// Deletes a manifest and all its tags, which must be exactly `tags`. See [`Inventory::delete_beside`].
    async fn delete_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        tags: &[String],
        elsewhere: Elsewhere<'_>,
    ) -> Result<Deleted, Error>;

    /// Deletes one tag, which must lead to `digest`.
    async fn delete_tag(
        &self,
        repository: &str,
        tag: &str,
        digest: &Digest,
    ) -> Result<Deleted, Error>;

    /// The bytes of a manifest, to be kept before it is deleted.
    async fn raw(&self, repository: &str, digest: &Digest) -> Result<Manifest, Error> {
        self.registry().manifest(repository, &digest.to_string()).await
    }

    /// Checks that the thing is still what it was, and deletes it. A manifest that a tagged index needs has changed in
    /// this sense: an index goes first, then its children. Between the check and the deletion some milliseconds
    /// pass, in which nobody is told of a tag that moves: no registry has a conditional delete. Anything but
    /// [`Deleted::Done`] leaves the thing as it was.
    async fn delete(&self, repository: &str, deletion: &Deletion) -> Result<Deleted, Error> {
        self.delete_beside(repository, deletion, &|_| false).await
    }

    /// The same, with tags of the repository that were seen to lead elsewhere and are not asked again, where asking is
    /// a call for each: of many tags, only those that may have moved, and those that came since.
    async fn delete_beside(
        &self,
        repository: &str,
        deletion: &Deletion,
        elsewhere: Elsewhere<'_>,
    ) -> Result<Deleted, Error> {
        match deletion {
            Deletion::Manifest { digest, tags } => {
                self.delete_manifest(repository, digest, tags, elsewhere).await
            }
            Deletion::Tag { tag, digest } => self.delete_tag(repository, tag, digest).await,
        }
    }

    /// Puts back what was deleted. Fails with [`Error::NotFound`] when a blob or child is gone. A tag that leads to
    /// another manifest by now stays there.
    async fn restore(
        &self,
        repository: &str,
        manifest: &Manifest,
        tags: &[String],
    ) -> Result<(), Error> {
        restore::restore(self.registry(), repository, manifest, tags).await
    }
}
