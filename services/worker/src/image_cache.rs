//! Which images are kept, and which goes next. Pure: it knows digests and sizes, and asks nobody.
//!
//! Invariants:
//! 1. Once [`Cache::pop_excess`] has nothing more to give, the cache is within its limits, or all that is left
//!    is pinned.
//! 2. What is pinned is never given.
//! 3. What is given is the least recently used of what isn't pinned.

use std::collections::HashMap;

use lru::LruCache;
use mecapy_engine::Layer;
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
    pub layers: Vec<Layer>,
    /// Whether it says that it has the runner.
    pub has_runner: bool,
}

/// A hold on one image. It must be given back by [`Cache::unpin`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub digest: Digest,
    pub id: String,
    pub has_runner: bool,
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
    /// How many images have each layer.
    layers: HashMap<Digest, usize>,
    /// Of all layers, each once.
    bytes: u64,
    generations: u64,
}

impl Cache {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let (entries, layers) = (LruCache::unbounded(), HashMap::new());
        Self { bounds, entries, layers, bytes: 0, generations: 0 }
    }

    /// Takes an image in, as the most recently used, in place of what was known under this digest.
    pub(crate) fn insert(&mut self, digest: Digest, image: Image) {
        self.add_layers(&image);
        if let Some(entry) = self.entries.get_mut(&digest) {
            let replaced = std::mem::replace(&mut entry.image, image);
            self.drop_layers(&replaced);
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
        let Image { id, has_runner, .. } = &entry.image;
        let (id, has_runner) = (id.clone(), *has_runner);
        Some(Pin { digest, id, has_runner, generation: entry.generation })
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
        self.drop_layers(&entry.image);
        Some(entry.image)
    }

    fn add_layers(&mut self, image: &Image) {
        for layer in &image.layers {
            let images = self.layers.entry(layer.id).or_default();
            if *images == 0 {
                self.bytes += layer.bytes;
            }
            *images += 1;
        }
    }

    fn drop_layers(&mut self, image: &Image) {
        for layer in &image.layers {
            let Some(images) = self.layers.get_mut(&layer.id) else { continue };
            *images -= 1;
            if *images == 0 {
                self.layers.remove(&layer.id);
                self.bytes -= layer.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    /// With one layer of its own.
    fn image(bytes: u64) -> Image {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let id = Digest::of(&MADE.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        on(&[], Layer { id, bytes })
    }

    fn on(layers: &[Layer], top: Layer) -> Image {
        let layers = layers.iter().copied().chain([top]).collect();
        Image { id: format!("sha256:{}", top.bytes), names: Vec::new(), layers, has_runner: true }
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
    fn a_layer_that_images_share_is_counted_once() {
        let layer = |number: u8, bytes: u64| Layer { id: digest(number), bytes };
        let base = [layer(101, 50), layer(102, 20)];
        let mut cache = Cache::new(Bounds { images: 10, bytes: 80 });
        for number in 1..=5 {
            cache.insert(digest(number), on(&base, layer(number, 2)));
        }
        assert_eq!((cache.bytes(), drain(&mut cache)), (80, vec![]));
        cache.insert(digest(6), on(&base[..1], layer(6, 1)));
        assert_eq!((cache.bytes(), drain(&mut cache)), (81, vec![digest(1)]));
        // The same once more, and with other layers.
        cache.insert(digest(6), on(&base[..1], layer(6, 1)));
        assert_eq!(cache.bytes(), 79);
        cache.insert(digest(6), on(&[], layer(7, 3)));
        assert_eq!(cache.bytes(), 81);
        assert_eq!(drain(&mut cache), [digest(2)]);
        for number in 3..=5 {
            let pin = cache.pin(digest(number)).unwrap();
            cache.forget(&pin);
        }
        assert_eq!((cache.len(), cache.bytes()), (1, 3), "what none has any more is not counted");
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
        Insert(u8, Vec<(u8, u64)>),
        Pin(u8),
        Unpin(usize),
        Forget(usize),
        Evict,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..12, proptest::collection::btree_set(0u8..9, 0..4)).prop_map(
                |(number, layers)| {
                    Step::Insert(
                        number,
                        layers.into_iter().map(|n| (n, u64::from(n) * 7)).collect(),
                    )
                }
            ),
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
                    Step::Insert(number, layers) => {
                        let layers = layers.into_iter().map(|(n, bytes)| Layer { id: digest(100 + n), bytes });
                        let image = Image { layers: layers.collect(), ..image(0) };
                        cache.insert(digest(number), image);
                    }
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
                let layers = cache.entries.iter().flat_map(|(_, entry)| &entry.image.layers);
                let each: HashMap<Digest, u64> = layers.map(|layer| (layer.id, layer.bytes)).collect();
                let total: u64 = each.values().sum();
                prop_assert_eq!(cache.bytes(), total);
                for pin in &pins {
                    prop_assert!(cache.entries.peek(&pin.digest).is_some_and(|entry| entry.pins > 0));
                }
            }
        }
    }
}
