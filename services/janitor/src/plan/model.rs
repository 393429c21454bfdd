//! A registry small enough to think about, for tests: images by number, and what a plan does to them.

use chrono::{DateTime, Duration, Utc};
use mecapy_registry::{Descriptor, Digest, Holds, StoredManifest};

use super::{Plan, Seen, Snapshot};

pub(crate) fn now() -> DateTime<Utc> {
    "2026-06-01T03:00:00Z".parse().unwrap()
}

pub(crate) fn digest(number: u32) -> Digest {
    Digest::of(&number.to_be_bytes())
}

fn blob(number: u32) -> Descriptor {
    Descriptor::new(
        "application/octet-stream",
        digest(1_000_000 + number),
        1_000 + u64::from(number),
    )
}

/// A manifest: its digest is made of its number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelImage {
    pub manifest: StoredManifest,
    /// Days.
    pub age: f64,
}

/// An image of that number with a layer of its own, 200 days old.
pub(crate) fn image(number: u32) -> ModelImage {
    ModelImage {
        manifest: StoredManifest {
            digest: digest(number),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: 100 + u64::from(number),
            tags: Vec::new(),
            pushed_at: None,
            holds: Holds::Image { config: blob(number), layers: vec![blob(10_000 + number)] },
            subject: None,
        },
        age: 200.0,
    }
}

impl ModelImage {
    pub fn tagged(mut self, tags: &[&str]) -> Self {
        self.manifest.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        self
    }

    pub fn aged(mut self, days: f64) -> Self {
        self.age = days;
        self
    }

    pub fn with_layers(mut self, layers: &[u32]) -> Self {
        let config = blob(self.manifest.size as u32);
        self.manifest.holds =
            Holds::Image { config, layers: layers.iter().map(|layer| blob(*layer)).collect() };
        self
    }

    pub fn index_of(mut self, children: &[u32]) -> Self {
        self.manifest.holds =
            Holds::Index { children: children.iter().map(|child| digest(*child)).collect() };
        self
    }

    pub fn referring_to(mut self, subject: u32) -> Self {
        self.manifest.subject = Some(digest(subject));
        self
    }

    pub fn seen(&self) -> Seen {
        let age = Duration::milliseconds((self.age * 86_400_000.0) as i64);
        Seen { manifest: self.manifest.clone(), first_seen: now() - age }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    pub repositories: Vec<(String, Vec<ModelImage>)>,
}

impl Model {
    pub fn of(repository: &str, images: Vec<ModelImage>) -> Self {
        Self { repositories: vec![(repository.to_owned(), images)] }
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, images) in &self.repositories {
            snapshot.add(name, &images.iter().map(ModelImage::seen).collect::<Vec<_>>());
        }
        snapshot
    }

    pub fn has(&self, repository: &str, digest: &Digest) -> bool {
        self.image(repository, digest).is_some()
    }

    pub fn image(&self, repository: &str, digest: &Digest) -> Option<&ModelImage> {
        let (_, images) = self.repositories.iter().find(|(name, _)| name == repository)?;
        images.iter().find(|image| image.manifest.digest == *digest)
    }

    /// The registry after the plan: what an apply that nothing disturbs leaves.
    pub fn after(&self, snapshot: &Snapshot, plan: &Plan) -> Self {
        let mut after = self.clone();
        let mut at = |repository: &str,
                      digest: Digest,
                      change: &mut dyn FnMut(&mut Vec<ModelImage>, usize)| {
            let (_, images) =
                after.repositories.iter_mut().find(|(name, _)| name == repository).unwrap();
            let place = images.iter().position(|image| image.manifest.digest == digest).unwrap();
            change(images, place);
        };
        for change in &plan.tag_changes {
            let repository = snapshot.repository(change.image);
            at(repository, snapshot.digest(change.image), &mut |images, place| {
                images[place].manifest.tags.retain(|tag| *tag != change.tag);
            });
            if let Some(to) = change.moved_to {
                at(repository, snapshot.digest(to), &mut |images, place| {
                    images[place].manifest.tags.push(change.tag.clone());
                });
            }
        }
        for removal in &plan.removals {
            let repository = snapshot.repository(removal.image);
            at(repository, snapshot.digest(removal.image), &mut |images, place| {
                images.remove(place);
            });
        }
        after
    }

    /// Bytes of all that is there, counted the slow way.
    pub fn bytes(&self) -> u64 {
        let mut all = std::collections::BTreeMap::new();
        for image in self.repositories.iter().flat_map(|(_, images)| images) {
            all.insert(image.manifest.digest, image.manifest.size);
            if let Holds::Image { config, layers } = &image.manifest.holds {
                all.extend(layers.iter().chain([config]).map(|blob| (blob.digest, blob.size)));
            }
        }
        all.values().sum()
    }
}
