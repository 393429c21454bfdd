//! From the tags of a repository to all the manifests that they lead to, at any depth.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{Elsewhere, Holds, Known, StoredManifest, throw_away};
use crate::manifest::media_types::{DOCKER_LIST, OCI_INDEX};
use crate::{Content, Descriptor, Digest, Error, Manifest, Registry};

/// Calls at once, over all repositories that are read by one inventory.
pub(super) const CONCURRENCY: usize = 16;

/// Reads manifests of one registry, a bounded number at once.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    registry: Registry,
    permits: Arc<Semaphore>,
    /// What indexes hold, so that each deletion of a repository doesn't read them again. A digest's content never
    /// changes.
    indexes: Arc<Mutex<HashMap<Digest, Arc<[Descriptor]>>>>,
    /// How many digests in a row were not known.
    unknown: Arc<AtomicU32>,
    /// Whether the registry is asked what refers to each manifest.
    asks_referrers: bool,
}

const MAX_KNOWN_INDEXES: usize = 10_000;
/// After so many unknown digests in a row, as in a first run, a tag's manifest is read at once, instead of being asked
/// for its digest and then read by that. One that is known ends this.
const UNKNOWN_IN_A_ROW: u32 = 8;

/// Where the way into a repository begins: a manifest that the registry told of.
#[derive(Clone, Debug, Default)]
pub(super) struct Root {
    pub(super) tags: Vec<String>,
    pub(super) pushed_at: Option<DateTime<Utc>>,
}

/// Where tags lead, and what was read on the way.
#[derive(Debug, Default)]
pub(super) struct Tagged {
    pub(super) roots: BTreeMap<Digest, Root>,
    pub(super) read: HashMap<Digest, Manifest>,
}

/// What a repository holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) manifests: Vec<StoredManifest>,
    /// Left behind by a deletion of a tag that was killed half way.
    pub(super) throw_aways: Vec<Digest>,
}

enum Read {
    Stored(Digest, Box<StoredManifest>),
    ThrowAway(Digest),
    /// Deleted since it was listed, or the child of an index that came without it.
    Absent,
}

impl Reader {
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            permits: Arc::new(Semaphore::new(CONCURRENCY)),
            indexes: Arc::default(),
            unknown: Arc::default(),
            asks_referrers: true,
        }
    }

    /// For a registry whose own API tells of every manifest, those without a tag too.
    pub(super) fn of_all(registry: Registry) -> Self {
        Self { asks_referrers: false, ..Self::new(registry) }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where each tag leads now, but for those in `except`: a HEAD a tag. None of an unknown repository.
    pub(super) async fn tags(
        &self,
        repository: &str,
        except: Elsewhere<'_>,
    ) -> Result<Vec<(String, Descriptor)>, Error> {
        let tags = self.tag_names(repository).await?;
        let asked = tags.into_iter().filter(|tag| !except(tag));
        let heads: Vec<_> = asked.map(|tag| self.head(repository, tag)).collect();
        let mut leads =
            stream::iter(heads).buffer_unordered(CONCURRENCY).try_collect::<Vec<_>>().await?;
        leads.sort_by(|a, b| a.as_ref().map(|(tag, _)| tag).cmp(&b.as_ref().map(|(tag, _)| tag)));
        Ok(leads.into_iter().flatten().collect())
    }

    /// Where each tag leads. Of what is known only the digest is asked for.
    pub(super) async fn tagged(&self, repository: &str, known: Known<'_>) -> Result<Tagged, Error> {
        let leads: Vec<_> = self
            .tag_names(repository)
            .await?
            .into_iter()
            .map(|tag| self.lead(repository, tag, known))
            .collect();
        let mut leads = stream::iter(leads).buffer_unordered(CONCURRENCY);
        let mut tagged = Tagged::default();
        while let Some(lead) = leads.try_next().await? {
            let Some((tag, digest, manifest)) = lead else { continue };
            tagged.roots.entry(digest).or_default().tags.push(tag);
            if let Some(manifest) = manifest {
                tagged.read.insert(digest, manifest);
            }
        }
        Ok(tagged)
    }

    async fn lead(
        &self,
        repository: &str,
        tag: String,
        known: Known<'_>,
    ) -> Result<Option<(String, Digest, Option<Manifest>)>, Error> {
        let found = if self.unknown.load(Ordering::Relaxed) < UNKNOWN_IN_A_ROW {
            self.head(repository, tag).await?.map(|(tag, lead)| (tag, lead.digest, None))
        } else {
            let _permit = self.permits.acquire().await;
            match self.registry.manifest(repository, &tag).await {
                Ok(manifest) => Some((tag, manifest.digest, Some(manifest))),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            }
        };
        if let Some((_, digest, _)) = &found {
            if known(digest).is_some() {
                self.unknown.store(0, Ordering::Relaxed);
            } else {
                self.unknown.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(found)
    }

    async fn tag_names(&self, repository: &str) -> Result<Vec<String>, Error> {
        match self.registry.tags(repository).await {
            Ok(tags) => Ok(tags),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The roots and everything that they lead to, by digest.
    pub(super) async fn walk(
        &self,
        repository: &str,
        Tagged { roots, mut read }: Tagged,
        known: Known<'_>,
    ) -> Result<Found, Error> {
        let mut manifests = BTreeMap::new();
        let mut throw_aways = Vec::new();
        let mut seen: BTreeSet<Digest> = roots.keys().copied().collect();
        let mut wave: Vec<Digest> = seen.iter().copied().collect();
        while !wave.is_empty() {
            let reads: Vec<_> = wave
                .into_iter()
                .map(|digest| self.read(repository, digest, read.remove(&digest), known))
                .collect();
            let reads: Vec<Read> =
                stream::iter(reads).buffer_unordered(CONCURRENCY).try_collect().await?;
            wave = Vec::new();
            let mut stored_now = Vec::new();
            for read in reads {
                match read {
                    Read::Stored(digest, stored) => {
                        stored_now.push(digest);
                        if let Holds::Index { children } = &stored.holds {
                            wave.extend(children.iter().filter(|child| seen.insert(**child)));
                        }
                        manifests.insert(digest, *stored);
                    }
                    Read::ThrowAway(digest) => throw_aways.push(digest),
                    Read::Absent => {}
                }
            }
            let referrers = self.referrers(repository, stored_now).await?;
            wave.extend(referrers.into_iter().filter(|referrer| seen.insert(*referrer)));
        }
        let there: BTreeSet<Digest> = manifests.keys().copied().collect();
        for (digest, stored) in &mut manifests {
            let root = roots.get(digest).cloned().unwrap_or_default();
            stored.tags = root.tags;
            stored.tags.sort();
            stored.pushed_at = root.pushed_at.or(stored.pushed_at);
            if let Some(subject) = subject_by_tag(&stored.tags, &there) {
                stored.subject.get_or_insert(subject);
            }
        }
        Ok(Found { manifests: manifests.into_values().collect(), throw_aways })
    }

    /// What refers to these, where the registry tells: no tag need lead to it.
    async fn referrers(
        &self,
        repository: &str,
        digests: Vec<Digest>,
    ) -> Result<Vec<Digest>, Error> {
        if !self.asks_referrers {
            return Ok(Vec::new());
        }
        let ask = |digest: Digest| async move {
            let _permit = self.permits.acquire().await;
            let told = self.registry.referrers_told(repository, &digest).await?;
            let told = told.unwrap_or_default().into_iter();
            Ok::<Vec<_>, Error>(told.map(|referrer| referrer.digest).collect())
        };
        let mut digests = digests.into_iter();
        // One alone: where the registry has no such API, the others need not ask.
        let Some(first) = digests.next() else { return Ok(Vec::new()) };
        let mut referrers = ask(first).await?;
        let asks: Vec<_> = digests.map(ask).collect();
        let mut asks = stream::iter(asks).buffer_unordered(CONCURRENCY);
        while let Some(told) = asks.try_next().await? {
            referrers.extend(told);
        }
        Ok(referrers)
    }

    pub(super) async fn raw(&self, repository: &str, digest: &Digest) -> Result<Manifest, Error> {
        let _permit = self.permits.acquire().await;
        self.registry.manifest(repository, &digest.to_string()).await
    }

    /// Why a manifest must stay: one of these tags leads, by its index, to it, at any depth.
    pub(super) async fn needed_by(
        &self,
        repository: &str,
        digest: &Digest,
        leads: impl Iterator<Item = (&str, Digest)>,
    ) -> Result<Option<String>, Error> {
        for (tag, lead) in leads.filter(|(_, lead)| lead != digest) {
            let mut indexes = vec![lead];
            while let Some(index) = indexes.pop() {
                for child in self.children(repository, &index).await?.iter() {
                    if child.digest == *digest {
                        return Ok(Some(format!("the index that tag `{tag}` leads to needs it")));
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
        let children: Arc<[Descriptor]> = match self.raw(repository, index).await {
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

    async fn head(
        &self,
        repository: &str,
        tag: String,
    ) -> Result<Option<(String, Descriptor)>, Error> {
        let _permit = self.permits.acquire().await;
        let lead = self.registry.resolve(repository, &tag).await?;
        Ok(lead.map(|descriptor| (tag, descriptor)))
    }

    async fn read(
        &self,
        repository: &str,
        digest: Digest,
        manifest: Option<Manifest>,
        known: Known<'_>,
    ) -> Result<Read, Error> {
        if let Some(stored) = known(&digest) {
            return Ok(Read::Stored(digest, Box::new(stored)));
        }
        let manifest = match manifest {
            Some(manifest) => Ok(manifest),
            None => self.raw(repository, &digest).await,
        };
        match manifest {
            Ok(manifest) if throw_away::is_one(&manifest) => Ok(Read::ThrowAway(digest)),
            Ok(manifest) => Ok(Read::Stored(digest, Box::new(stored(&manifest)?))),
            Err(error) if error.is_not_found() => Ok(Read::Absent),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn is_index(descriptor: &Descriptor) -> bool {
    matches!(descriptor.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
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

/// What a manifest's bytes tell. One of a kind that is not understood is an error: what it needs is not known.
pub(super) fn stored(manifest: &Manifest) -> Result<StoredManifest, Error> {
    #[derive(Deserialize)]
    struct Referring {
        subject: Option<Subject>,
    }
    #[derive(Deserialize)]
    struct Subject {
        digest: Digest,
    }
    let referring: Referring = serde_json::from_slice(&manifest.raw)
        .map_err(|e| Error::Manifest { digest: manifest.digest, reason: e.to_string() })?;
    let holds = match manifest.parse()? {
        Content::Image { config, layers } => Holds::Image { config, layers },
        Content::Index { manifests } => {
            Holds::Index { children: manifests.into_iter().map(|child| child.digest).collect() }
        }
    };
    Ok(StoredManifest {
        digest: manifest.digest,
        media_type: manifest.media_type.clone(),
        size: manifest.raw.len() as u64,
        tags: Vec::new(),
        pushed_at: None,
        holds,
        subject: referring.subject.map(|subject| subject.digest),
    })
}

/// The subject that a tag `sha256-<hex>` names, with or without an ending as cosign's `.sig`. Two empty lists of
/// referrers are one manifest with two such tags: then the subject that is there counts.
fn subject_by_tag(tags: &[String], there: &BTreeSet<Digest>) -> Option<Digest> {
    let mut named = tags.iter().filter_map(|tag| {
        let hex = tag.strip_prefix("sha256-")?.split('.').next()?;
        format!("sha256:{hex}").parse::<Digest>().ok()
    });
    let first = named.next()?;
    if there.contains(&first) {
        return Some(first);
    }
    Some(named.find(|subject| there.contains(subject)).unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_of_the_referrers_schema_names_its_subject() {
        let (here, gone) = (Digest::of(b"here"), Digest::of(b"gone"));
        let there = BTreeSet::from([here]);
        let tag = |digest: &Digest| format!("sha256-{}", digest.hex());
        assert_eq!(subject_by_tag(&[tag(&gone)], &there), Some(gone));
        assert_eq!(subject_by_tag(&[tag(&gone), tag(&here)], &there), Some(here));
        assert_eq!(subject_by_tag(&[format!("{}.sig", tag(&here))], &there), Some(here));
        assert_eq!(subject_by_tag(&["sha256-short".into(), "v1".into()], &there), None);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let unknown = Manifest::new("{}".into(), "application/x");
        assert!(matches!(stored(&unknown), Err(Error::Manifest { .. })));
    }

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
