//! The registry API itself, as Distribution 2.8 and later speak it.
//!
//! What a run costs in calls: one a thousand repositories; for each repository one and a HEAD a tag; a GET for each
//! manifest that is not known. A deletion checks first: one call and a HEAD a tag of its repository, because a tag that
//! came to the manifest since is told by no other way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::reader::{CONCURRENCY, Reader, Root};
use super::{Deleted, Deletion, Inventory, Known, StoredManifest, throw_away};
use crate::manifest::media_types::{DOCKER_LIST, OCI_INDEX};
use crate::{Content, Descriptor, Digest, Error, Manifest, Registry};

/// An inventory by catalog, tags and manifests.
#[derive(Clone, Debug)]
pub struct DistributionInventory {
    reader: Reader,
    /// What indexes hold, so that each deletion of a repository doesn't read them again. A digest's content never
    /// changes.
    indexes: Arc<Mutex<HashMap<Digest, Arc<[Descriptor]>>>>,
}

const MAX_KNOWN_INDEXES: usize = 10_000;

impl DistributionInventory {
    pub fn new(registry: Registry) -> Self {
        Self { reader: Reader::new(registry), indexes: Arc::default() }
    }

    async fn delete_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        expected: &[String],
    ) -> Result<Deleted, Error> {
        let registry = self.reader.registry();
        if registry.resolve(repository, &digest.to_string()).await?.is_none() {
            return Ok(Deleted::Absent);
        }
        let leads = self.reader.tags(repository).await?;
        let actual = leads.iter().filter(|(_, lead)| lead.digest == *digest);
        if let Some(reason) = difference(expected, actual.map(|(tag, _)| tag)) {
            return Ok(Deleted::Changed { reason });
        }
        if let Some(tag) = self.needed_by(repository, digest, &leads).await? {
            let reason = format!("the index that tag `{tag}` leads to needs it");
            return Ok(Deleted::Changed { reason });
        }
        deleted(registry.delete_manifest(repository, digest).await)
    }

    /// The tag of an index that leads to `digest`, at any depth.
    async fn needed_by(
        &self,
        repository: &str,
        digest: &Digest,
        leads: &[(String, Descriptor)],
    ) -> Result<Option<String>, Error> {
        for (tag, lead) in leads.iter().filter(|(_, lead)| lead.digest != *digest) {
            let mut indexes: Vec<Digest> =
                is_index(lead).then_some(lead.digest).into_iter().collect();
            while let Some(index) = indexes.pop() {
                for child in self.children(repository, &index).await?.iter() {
                    if child.digest == *digest {
                        return Ok(Some(tag.clone()));
                    }
                    indexes.extend(is_index(child).then_some(child.digest));
                }
            }
        }
        Ok(None)
    }

    /// An index's children. None if it was deleted since, or is no index.
    async fn children(&self, repository: &str, index: &Digest) -> Result<Arc<[Descriptor]>, Error> {
        if let Some(children) = self.known_indexes().get(index) {
            return Ok(children.clone());
        }
        let children: Arc<[Descriptor]> = match self.reader.raw(repository, index).await {
            Ok(manifest) => match manifest.parse()? {
                Content::Index { manifests } => manifests.into(),
                Content::Image { .. } => Arc::new([]),
            },
            Err(error) if error.is_not_found() => return Ok(Arc::new([])),
            Err(error) => return Err(error),
        };
        let mut known = self.known_indexes();
        if known.len() >= MAX_KNOWN_INDEXES {
            known.clear();
        }
        known.insert(*index, children.clone());
        Ok(children)
    }

    fn known_indexes(&self) -> MutexGuard<'_, HashMap<Digest, Arc<[Descriptor]>>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn delete_tag(
        &self,
        repository: &str,
        tag: &str,
        digest: &Digest,
    ) -> Result<Deleted, Error> {
        let registry = self.reader.registry();
        let Some(lead) = registry.resolve(repository, tag).await? else {
            return Ok(Deleted::Absent);
        };
        if lead.digest != *digest {
            // It may be ours, from a try that was killed half way.
            if lead.media_type == OCI_INDEX
                && throw_away::is_one(&self.reader.raw(repository, &lead.digest).await?)
            {
                return deleted(registry.delete_manifest(repository, &lead.digest).await);
            }
            let reason = format!("the tag `{tag}` leads to {} now", lead.digest);
            return Ok(Deleted::Changed { reason });
        }
        let original = self.reader.raw(repository, digest).await?;
        let throw_away = throw_away::make(repository, tag, digest)
            .map_err(|e| Error::Manifest { digest: *digest, reason: e.to_string() })?;
        if let Err(error) = registry.put_manifest(repository, tag, &throw_away).await {
            return deleted(Err(error));
        }
        let removed = deleted(registry.delete_manifest(repository, &throw_away.digest).await);
        match &removed {
            // Another replica, or the next listing, was as quick.
            Ok(Deleted::Absent) => return Ok(Deleted::Done),
            Ok(Deleted::Done | Deleted::Changed { .. }) => {}
            // Nothing is deleted here, so the tag must not stay on nothing.
            Ok(Deleted::Refused { .. }) => {
                registry.put_manifest(repository, tag, &original).await?;
            }
            Err(error) if !error.is_transient() => {
                registry.put_manifest(repository, tag, &original).await?;
            }
            // It may have happened: the next listing, or the same deletion again, finishes it.
            Err(_) => {}
        }
        removed
    }

    /// Finishes what was killed half way. Without the right to, the next one may have it.
    async fn finish(&self, repository: &str, throw_aways: &[Digest]) {
        for digest in throw_aways {
            match self.reader.registry().delete_manifest(repository, digest).await {
                Ok(_) => tracing::info!(
                    registry.repository = repository,
                    %digest,
                    "the removal of a tag that was broken off is finished"
                ),
                Err(error) => tracing::warn!(
                    registry.repository = repository,
                    %digest,
                    error = mecapy_service::chain(&error),
                    "the removal of a tag was broken off and can't be finished"
                ),
            }
        }
    }
}

#[async_trait::async_trait]
impl Inventory for DistributionInventory {
    async fn repositories(&self) -> Result<Vec<String>, Error> {
        self.reader.registry().catalog().await
    }

    async fn manifests(
        &self,
        repository: &str,
        known: Known<'_>,
    ) -> Result<Vec<StoredManifest>, Error> {
        let mut roots: BTreeMap<Digest, Root> = BTreeMap::new();
        for (tag, lead) in self.reader.tags(repository).await? {
            roots.entry(lead.digest).or_default().tags.push(tag);
        }
        let found = self.reader.walk(repository, &roots, known).await?;
        self.finish(repository, &found.throw_aways).await;
        Ok(found.manifests)
    }

    async fn raw(&self, repository: &str, digest: &Digest) -> Result<Manifest, Error> {
        self.reader.raw(repository, digest).await
    }

    async fn delete(&self, repository: &str, deletion: &Deletion) -> Result<Deleted, Error> {
        match deletion {
            Deletion::Manifest { digest, tags } => {
                self.delete_manifest(repository, digest, tags).await
            }
            Deletion::Tag { tag, digest } => self.delete_tag(repository, tag, digest).await,
        }
    }

    async fn restore(
        &self,
        repository: &str,
        manifest: &Manifest,
        tags: &[String],
    ) -> Result<(), Error> {
        restore(self.reader.registry(), repository, manifest, tags).await
    }
}

/// Puts a manifest back where all that it needs is still there, then the tags that nobody else has.
pub(super) async fn restore(
    registry: &Registry,
    repository: &str,
    manifest: &Manifest,
    tags: &[String],
) -> Result<(), Error> {
    match manifest.parse()? {
        Content::Image { config, layers } => {
            let own = [config].into_iter().chain(layers).filter(|blob| blob.urls.is_empty());
            let checks: Vec<_> = own
                .map(|blob| async move {
                    match registry.blob_exists(repository, &blob.digest).await? {
                        true => Ok(()),
                        false => Err(gone(registry, "blob", repository, &blob.digest)),
                    }
                })
                .collect();
            stream::iter(checks).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
        }
        Content::Index { manifests } => {
            for child in manifests {
                if registry.resolve(repository, &child.digest.to_string()).await?.is_none() {
                    return Err(gone(registry, "manifest", repository, &child.digest));
                }
            }
        }
    }
    registry.put_manifest(repository, &manifest.digest.to_string(), manifest).await?;
    for tag in tags {
        match registry.resolve(repository, tag).await? {
            None => registry.put_manifest(repository, tag, manifest).await?,
            Some(lead) if lead.digest == manifest.digest => {}
            Some(lead) => tracing::info!(
                registry.repository = repository,
                tag,
                leads_to = %lead.digest,
                "the tag of a restored image leads elsewhere by now and stays there"
            ),
        }
    }
    Ok(())
}

fn gone(registry: &Registry, what: &str, repository: &str, digest: &Digest) -> Error {
    Error::NotFound {
        host: registry.host().to_owned(),
        subject: format!("{what} {repository}@{digest}"),
    }
}

/// How the tags that lead to a manifest differ from those that were expected to.
pub(super) fn difference<'a>(
    expected: &'a [String],
    actual: impl Iterator<Item = &'a String>,
) -> Option<String> {
    let expected: BTreeSet<_> = expected.iter().collect();
    let actual: BTreeSet<_> = actual.collect();
    if let Some(tag) = actual.difference(&expected).next() {
        return Some(format!("the tag `{tag}` leads to it now"));
    }
    let tag = expected.difference(&actual).next()?;
    Some(format!("the tag `{tag}` no longer leads to it"))
}

fn is_index(descriptor: &Descriptor) -> bool {
    matches!(descriptor.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
}

/// A 405 is the registry's word that it deletes nothing.
fn deleted(was_there: Result<bool, Error>) -> Result<Deleted, Error> {
    match was_there {
        Ok(true) => Ok(Deleted::Done),
        Ok(false) => Ok(Deleted::Absent),
        Err(Error::Status { status: 405, host, .. }) => Ok(Deleted::Refused {
            reason: format!(
                "{host} does not delete: it is read-only, or `storage.delete.enabled` is off"
            ),
        }),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_differ_when_one_came_or_one_went() {
        let tags = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let between =
            |expected: &[&str], actual: &[&str]| difference(&tags(expected), tags(actual).iter());
        assert_eq!(between(&["a", "b"], &["b", "a"]), None);
        assert_eq!(between(&[], &[]), None);
        assert!(between(&["a"], &["a", "b"]).unwrap().contains("`b` leads to it now"));
        assert!(between(&["a"], &[]).unwrap().contains("`a` no longer"));
    }
}
