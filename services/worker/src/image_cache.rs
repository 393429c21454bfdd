//! Which images are kept, and which goes next. Pure: it knows digests and sizes, and asks nobody.
//!
//! Invariants:
//! 1. Once [`Cache::pop_excess`] has nothing more to give, the cache is within its limits, or all that is left
//!    is pinned.
//! 2. What is pinned is never given.
//! 3. What is given is the least recently used of what isn't pinned.

use lru::LruCache;
use mecapy_registry::Digest;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub images: usize,
    pub bytes: u64,
}

/// An image as the engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// The engine's id of it.
    pub id: String,
    /// `registry/repository@digest`: removing all of them removes the image.
    pub names: Vec<String>,
    /// Of all its layers, unpacked.
    pub bytes: u64,
}

/// A hold on one image. It must be given back by [`Cache::unpin`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub digest: Digest,
    pub id: String,
    /// An image that was forgotten and came back is another one, which this does not hold.
    generation: u64,
}

#[derive(Debug)]
struct Entry {
    image: Image,
    pins: usize,
    generation: u64,
}

#[derive(Debug)]
pub(crate) struct Cache {
    bounds: Bounds,
    /// Without a capacity: the crate's own would put out what is pinned.
    entries: LruCache<Digest, Entry>,
    bytes: u64,
    generations: u64,
}

impl Cache {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, entries: LruCache::unbounded(), bytes: 0, generations: 0 }
    }

    /// Takes an image in, as the most recently used, in place of what was known under this digest.
    pub(crate) fn insert(&mut self, digest: Digest, image: Image) {
        self.bytes += image.bytes;
        if let Some(entry) = self.entries.get_mut(&digest) {
            self.bytes -= entry.image.bytes;
            entry.image = image;
            return;
        }
        self.generations += 1;
        let entry = Entry { image, pins: 0, generation: self.generations };
        // `push` and not `put`: nothing is lost silently.
        self.entries.push(digest, entry);
    }

    /// Uses an image, and holds it. None: it isn't here.
    pub(crate) fn pin(&mut self, digest: Digest) -> Option<Pin> {
        let entry = self.entries.get_mut(&digest)?;
        entry.pins += 1;
        Some(Pin { digest, id: entry.image.id.clone(), generation: entry.generation })
    }

    pub(crate) fn unpin(&mut self, pin: &Pin) {
        // Looking at it is no use of it: `peek` keeps its place.
        if let Some(entry) = self.entries.peek_mut(&pin.digest)
            && entry.generation == pin.generation
        {
            entry.pins = entry.pins.saturating_sub(1);
        }
    }

    /// Forgets an image that turned out not to be there. Who else holds it will find out too.
    pub(crate) fn forget(&mut self, pin: &Pin) {
        if self.entries.peek(&pin.digest).is_some_and(|entry| entry.generation == pin.generation) {
            self.remove(pin.digest);
        }
    }

    /// The next image that has to go; it is not in the cache any more. None: nothing has to, or nothing can.
    pub(crate) fn pop_excess(&mut self) -> Option<(Digest, Image)> {
        if self.is_within_bounds() {
            return None;
        }
        let (digest, _) = self.entries.iter().rev().find(|(_, entry)| entry.pins == 0)?;
        let digest = *digest;
        self.remove(digest).map(|image| (digest, image))
    }

    pub(crate) fn is_within_bounds(&self) -> bool {
        self.entries.len() <= self.bounds.images && self.bytes <= self.bounds.bytes
    }

    /// Whether an image of this size fits without another's going.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        self.entries.len() < self.bounds.images
            && self.bytes.saturating_add(bytes) <= self.bounds.bytes
    }

    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.entries.contains(&digest)
    }

    /// The most recently used first.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        self.entries.iter().map(|(digest, _)| *digest).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn remove(&mut self, digest: Digest) -> Option<Image> {
        let entry = self.entries.pop(&digest)?;
        self.bytes -= entry.image.bytes;
        Some(entry.image)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn image(bytes: u64) -> Image {
        Image { id: format!("sha256:{bytes}"), names: Vec::new(), bytes }
    }

    fn drain(cache: &mut Cache) -> Vec<Digest> {
        std::iter::from_fn(|| cache.pop_excess()).map(|(digest, _)| digest).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::new(Bounds { images: 2, bytes: 100 });
        for number in 1..=2 {
            cache.insert(digest(number), image(1));
        }
        let pin = cache.pin(digest(1)).unwrap();
        cache.unpin(&pin);
        cache.insert(digest(3), image(1));
        assert_eq!(drain(&mut cache), [digest(2)]);
        assert!(cache.pin(digest(1)).is_some());
    }

    #[test]
    fn bytes_count_as_well_as_images() {
        let mut cache = Cache::new(Bounds { images: 10, bytes: 10 });
        for number in 1..=3 {
            cache.insert(digest(number), image(4));
        }
        assert_eq!(drain(&mut cache), [digest(1)]);
        assert_eq!(cache.digests(), [digest(3), digest(2)]);
        assert!(cache.has_room_for(2) && !cache.has_room_for(3));
        cache.insert(digest(9), image(11));
        assert_eq!(
            drain(&mut cache),
            [digest(2), digest(3), digest(9)],
            "one too large for it alone goes too"
        );
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn a_pin_of_a_forgotten_image_does_not_hold_the_one_that_came_back() {
        let mut cache = Cache::new(Bounds { images: 0, bytes: 0 });
        cache.insert(digest(1), image(1));
        let old = cache.pin(digest(1)).unwrap();
        cache.forget(&old);
        cache.insert(digest(1), image(1));
        let new = cache.pin(digest(1)).unwrap();
        cache.unpin(&old);
        cache.forget(&old);
        assert_eq!(drain(&mut cache), []);
        cache.unpin(&new);
        assert_eq!(drain(&mut cache), [digest(1)]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8, u64),
        Pin(u8),
        Unpin(usize),
        Forget(usize),
        Evict,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..12, 0u64..40).prop_map(|(number, bytes)| Step::Insert(number, bytes)),
            (0u8..12).prop_map(Step::Pin),
            any::<usize>().prop_map(Step::Unpin),
            any::<usize>().prop_map(Step::Forget),
            Just(Step::Evict),
        ]
    }

    proptest! {
        #[test]
        fn the_cache_keeps_its_bounds_and_what_is_pinned(
            images in 0usize..6,
            bytes in 0u64..100,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut cache = Cache::new(Bounds { images, bytes });
            let mut pins: Vec<Pin> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(number, bytes) => cache.insert(digest(number), image(bytes)),
                    Step::Pin(number) => pins.extend(cache.pin(digest(number))),
                    Step::Unpin(which) if !pins.is_empty() => {
                        let pin = pins.swap_remove(which % pins.len());
                        cache.unpin(&pin);
                    }
                    Step::Forget(which) if !pins.is_empty() => {
                        let pin = pins.swap_remove(which % pins.len());
                        cache.forget(&pin);
                        pins.retain(|other| other.generation != pin.generation);
                    }
                    Step::Unpin(_) | Step::Forget(_) => {}
                    Step::Evict => {
                        for gone in drain(&mut cache) {
                            prop_assert!(pins.iter().all(|pin| pin.digest != gone), "a pinned image was given");
                        }
                        let pinned: std::collections::BTreeSet<_> = pins.iter().map(|pin| pin.digest).collect();
                        prop_assert!(cache.is_within_bounds() || cache.len() == pinned.len());
                    }
                }
                let total: u64 = cache.entries.iter().map(|(_, entry)| entry.image.bytes).sum();
                prop_assert_eq!(cache.bytes(), total);
                for pin in &pins {
                    prop_assert!(cache.entries.peek(&pin.digest).is_some_and(|entry| entry.pins > 0));
                }
            }
        }
    }
}
