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

use crate::{Descriptor, Digest, Error, Manifest};

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

/// What was read before, by digest.
pub type Known<'a> = &'a (dyn Fn(&Digest) -> Option<StoredManifest> + Sync);

/// Lists and deletes. Every call is paged, retried and bounded by the implementation.
#[async_trait::async_trait]
pub trait Inventory: Send + Sync {
    /// All repositories, also those whose images are all gone.
    async fn repositories(&self) -> Result<Vec<String>, Error>;

    /// Every manifest of a repository that can be found: tagged ones, children of indexes, referrers. What `known`
    /// has under a digest is not read again.
    async fn manifests(
        &self,
        repository: &str,
        known: Known<'_>,
    ) -> Result<Vec<StoredManifest>, Error>;

    /// The bytes of a manifest, to be kept before it is deleted.
    async fn raw(&self, repository: &str, digest: &Digest) -> Result<Manifest, Error>;

    /// Checks that the thing is still what it was, and deletes it. A manifest that a tagged index needs has changed in
    /// this sense: an index goes first, then its children. Between the check and the deletion some milliseconds
    /// pass, in which nobody is told of a tag that moves: no registry has a conditional delete.
    async fn delete(&self, repository: &str, deletion: &Deletion) -> Result<Deleted, Error>;

    /// Puts back what was deleted. Fails with [`Error::NotFound`] when a blob or child is gone. A tag that leads to
    /// another manifest by now stays there.
    async fn restore(
        &self,
        repository: &str,
        manifest: &Manifest,
        tags: &[String],
    ) -> Result<(), Error>;
}
