//! The registry API itself, as Distribution 2.8 and later speak it.
//!
//! What a run costs in calls: one a thousand repositories; for each repository one and a HEAD a tag; a GET for each
//! manifest that is not known; where the registry has an API of referrers, one for each manifest. A deletion checks
//! first: one call, and a HEAD for each tag of its repository that may lead to the manifest by now, because a tag that
//! came to it since is told by no other way.

use super::reader::{Reader, difference, is_index};
use super::{Deleted, Elsewhere, Inventory, Known, StoredManifest, is_under_way, throw_away};
use crate::manifest::media_types::OCI_INDEX;
use crate::{Descriptor, Digest, Error, Registry};

/// An inventory by catalog, tags and manifests.
#[derive(Clone, Debug)]
pub struct DistributionInventory {
    reader: Reader,
}

impl DistributionInventory {
    pub fn new(registry: Registry) -> Self {
        Self { reader: Reader::new(registry) }
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
    fn registry(&self) -> &Registry {
        self.reader.registry()
    }

    async fn repositories(&self) -> Result<Vec<String>, Error> {
        self.reader.registry().catalog().await
    }

    async fn manifests(
        &self,
        repository: &str,
        known: Known<'_>,
    ) -> Result<Vec<StoredManifest>, Error> {
        let tagged = self.reader.tagged(repository, known).await?;
        let found = self.reader.walk(repository, tagged, known).await?;
        self.finish(repository, &found.throw_aways).await;
        Ok(found.manifests)
    }

    async fn delete_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        expected: &[String],
        elsewhere: Elsewhere<'_>,
    ) -> Result<Deleted, Error> {
        let registry = self.reader.registry();
        let leads = self.reader.tags(repository, elsewhere).await?;
        let is_its = |(_, lead): &&(String, Descriptor)| lead.digest == *digest;
        let actual: Vec<&String> = leads.iter().filter(is_its).map(|(tag, _)| tag).collect();
        if actual.is_empty() && registry.resolve(repository, &digest.to_string()).await?.is_none() {
            return Ok(Deleted::Absent);
        }
        if let Some(reason) = difference(expected, actual.into_iter()) {
            return Ok(Deleted::Changed { reason });
        }
        let indexes = leads.iter().filter(|(_, lead)| is_index(lead));
        let indexes = indexes.map(|(tag, lead)| (tag.as_str(), lead.digest));
        if let Some(reason) = self.reader.needed_by(repository, digest, indexes).await? {
            return Ok(Deleted::Changed { reason });
        }
        deleted(registry.delete_manifest(repository, digest).await)
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
        // Nothing is deleted here, so the tag must not stay on nothing.
        if !is_under_way(&removed) {
            registry.put_manifest(repository, tag, &original).await?;
        }
        // Another replica, or the next listing, was as quick.
        if removed.as_ref().is_ok_and(|removed| *removed == Deleted::Absent) {
            return Ok(Deleted::Done);
        }
        removed
    }
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
