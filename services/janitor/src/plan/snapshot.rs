//! What the registry holds, small enough for a million images: digests are numbers, tags lie in one text, and what
//! manifests hold in one list.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use chrono::{DateTime, Utc};
use mecapy_registry::{Digest, Holds, StoredManifest};

/// A manifest as the inventory found it, and when that was first the case.
#[derive(Debug, Clone)]
pub struct Seen {
    pub manifest: StoredManifest,
    pub first_seen: DateTime<Utc>,
}

/// A manifest in a repository: its place in the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub(crate) u32);

impl ImageId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The place of a manifest's or blob's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DigestId(pub u32);

impl DigestId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Everything in the registry. Filled one repository after the other.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub(crate) repositories: Vec<Repository>,
    pub(crate) images: Vec<Image>,
    digests: Vec<Digest>,
    /// Bytes of the manifest or blob; of one that is only named, 0.
    sizes: Vec<u64>,
    places: HashMap<Digest, u32, BuildHasherDefault<FirstBytes>>,
    tag_text: String,
    tag_ends: Vec<u32>,
    holds: Vec<DigestId>,
}

#[derive(Debug)]
pub(crate) struct Repository {
    pub name: Box<str>,
    pub images: Range<u32>,
}

#[derive(Debug)]
pub(crate) struct Image {
    pub digest: DigestId,
    pub repository: u32,
    pub subject: Option<DigestId>,
    tags: Range<u32>,
    holds: Range<u32>,
    pub is_index: bool,
    /// Seconds: when it was pushed, else when it was first seen.
    pub since: i64,
    /// The registry told when it was pushed.
    pub is_push_known: bool,
}

impl Snapshot {
    /// Adds a repository, whole; each one once.
    pub fn add(&mut self, repository: &str, images: &[Seen]) {
        let first = count(self.images.len());
        let place = count(self.repositories.len());
        for seen in images {
            let image = self.image(place, seen);
            self.images.push(image);
        }
        let images = first..count(self.images.len());
        self.repositories.push(Repository { name: repository.into(), images });
    }

    fn image(&mut self, repository: u32, seen: &Seen) -> Image {
        let manifest = &seen.manifest;
        let digest = self.intern(manifest.digest, manifest.size);
        let first_tag = count(self.tag_ends.len());
        for tag in &manifest.tags {
            self.tag_text.push_str(tag);
            self.tag_ends.push(count(self.tag_text.len()));
        }
        let first_held = count(self.holds.len());
        match &manifest.holds {
            Holds::Image { config, layers } => {
                // What lies elsewhere takes no room here.
                for blob in std::iter::once(config).chain(layers).filter(|b| b.urls.is_empty()) {
                    let blob = self.intern(blob.digest, blob.size);
                    self.holds.push(blob);
                }
            }
            Holds::Index { children } => {
                for child in children {
                    let child = self.intern(*child, 0);
                    self.holds.push(child);
                }
            }
        }
        let subject = manifest.subject.map(|subject| self.intern(subject, 0));
        Image {
            digest,
            repository,
            subject,
            tags: first_tag..count(self.tag_ends.len()),
            holds: first_held..count(self.holds.len()),
            is_index: matches!(manifest.holds, Holds::Index { .. }),
            since: manifest.pushed_at.unwrap_or(seen.first_seen).timestamp(),
            is_push_known: manifest.pushed_at.is_some(),
        }
    }

    fn intern(&mut self, digest: Digest, size: u64) -> DigestId {
        match self.places.entry(digest) {
            Entry::Occupied(place) => {
                let place = *place.get();
                if let Some(known) = self.sizes.get_mut(place as usize) {
                    *known = size.max(*known);
                }
                DigestId(place)
            }
            Entry::Vacant(vacant) => {
                let place = count(self.digests.len());
                vacant.insert(place);
                self.digests.push(digest);
                self.sizes.push(size);
                DigestId(place)
            }
        }
    }

    pub fn len(&self) -> usize {
        self.images.len()
    }

    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    pub fn ids(&self) -> impl Iterator<Item = ImageId> + use<> {
        (0..count(self.images.len())).map(ImageId)
    }

    pub fn repository(&self, id: ImageId) -> &str {
        &self.repositories[self.image_at(id).repository as usize].name
    }

    pub fn digest(&self, id: ImageId) -> Digest {
        self.digest_at(self.image_at(id).digest)
    }

    pub fn tags(&self, id: ImageId) -> impl Iterator<Item = &str> {
        self.image_at(id).tags.clone().map(|tag| self.tag(tag))
    }

    pub(crate) fn tag_places(&self, id: ImageId) -> Range<u32> {
        self.image_at(id).tags.clone()
    }

    pub(crate) fn tag(&self, place: u32) -> &str {
        let place = place as usize;
        let start = if place == 0 { 0 } else { self.tag_ends[place - 1] as usize };
        &self.tag_text[start..self.tag_ends[place] as usize]
    }

    pub(crate) fn image_at(&self, id: ImageId) -> &Image {
        &self.images[id.index()]
    }

    /// An image's config and layers; an index's children.
    pub(crate) fn held(&self, id: ImageId) -> &[DigestId] {
        let holds = &self.image_at(id).holds;
        &self.holds[holds.start as usize..holds.end as usize]
    }

    pub(crate) fn digest_at(&self, id: DigestId) -> Digest {
        self.digests[id.index()]
    }

    pub(crate) fn place_of(&self, digest: &Digest) -> Option<DigestId> {
        self.places.get(digest).copied().map(DigestId)
    }

    pub(crate) fn size(&self, id: DigestId) -> u64 {
        self.sizes[id.index()]
    }

    pub(crate) fn digest_count(&self) -> usize {
        self.digests.len()
    }
}

/// A registry with more than four thousand million tags, digests or characters of tags does not fit.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A digest is a hash already: its first bytes do.
#[derive(Default)]
pub(crate) struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::model::image;

    #[test]
    fn what_was_put_in_comes_out() {
        let mut snapshot = Snapshot::default();
        let (one, two) = (image(1).tagged(&["v1-a", "latest"]), image(2).tagged(&[]));
        snapshot.add("a", &[one.seen(), two.seen()]);
        snapshot.add("b", &[one.seen()]);
        let ids: Vec<_> = snapshot.ids().collect();
        assert_eq!(snapshot.tags(ids[0]).collect::<Vec<_>>(), ["v1-a", "latest"]);
        assert_eq!(snapshot.tags(ids[1]).count(), 0);
        assert_eq!((snapshot.repository(ids[1]), snapshot.repository(ids[2])), ("a", "b"));
        assert_eq!(snapshot.digest(ids[0]), snapshot.digest(ids[2]));
        assert_eq!(snapshot.len(), 3);
    }
}
