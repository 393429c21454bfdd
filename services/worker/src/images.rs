//! The images that this worker keeps in its engine: taken, held while in use, put out when there are too many.
//!
//! A pull runs in a task of its own, one for each digest: who asks while it runs waits for the same one, and
//! nobody who goes away ends it for the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use mecapy_engine::Engine;
use mecapy_proto::v1::CacheOutcome;
use mecapy_registry::Digest;
use tokio::sync::Notify;
use tracing::Instrument as _;

use crate::background::Background;
use crate::error::Problem;
use crate::image_cache::{Bounds, Cache, Image, Pin};
use crate::pull::NotPulled;
use crate::sources::Sources;
use crate::{local_images, metric_definitions as metrics};

/// How long an image that is too much stays for the sake of a moment without tasks.
const EVICT_WITHIN: Duration = Duration::from_secs(10);
/// When one that could not be put out is tried again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Images(Arc<Inner>);

struct Inner {
    engine: Engine,
    sources: Sources,
    background: Background,
    state: Mutex<State>,
    /// Told when something was added or let go of.
    changed: Notify,
}

struct State {
    cache: Cache,
    pulls: HashMap<Digest, Pull>,
}

type Pulled = Result<(Arc<Held>, CacheOutcome), NotPulled>;
type Pull = Shared<BoxFuture<'static, Pulled>>;

/// An image in use: not put out as long as this lives.
pub(crate) struct Held {
    images: Images,
    pin: Pin,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Held").field(&self.pin).finish()
    }
}

impl Held {
    /// The engine's id of the image.
    pub(crate) fn id(&self) -> &str {
        &self.pin.id
    }

    pub(crate) fn has_runner(&self) -> bool {
        self.pin.has_runner
    }

    /// Says that the engine hasn't got it after all: somebody else removed it.
    pub(crate) fn is_gone(&self) {
        self.images.state().cache.forget(&self.pin);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.images.state().cache.unpin(&self.pin);
        self.images.0.changed.notify_one();
    }
}

impl Images {
    /// Begins with what the engine has of before, oldest first.
    pub(crate) fn new(
        engine: Engine,
        sources: Sources,
        background: Background,
        bounds: Bounds,
        found: Vec<(Digest, Image)>,
    ) -> Self {
        let mut cache = Cache::new(bounds);
        for (digest, image) in found {
            cache.insert(digest, image);
        }
        let state = State { cache, pulls: HashMap::new() };
        let images = Self(Arc::new(Inner {
            engine,
            sources,
            background,
            state: Mutex::new(state),
            changed: Notify::new(),
        }));
        images.0.changed.notify_one();
        tokio::spawn(images.clone().evict());
        images
    }

    /// The image of this digest, held: from the engine if it is there, else from a registry.
    pub(crate) async fn take(
        &self,
        repository: &str,
        digest: Digest,
    ) -> Result<(Arc<Held>, CacheOutcome), Problem> {
        let pull = {
            let mut state = self.state();
            if let Some(pin) = state.cache.pin(digest) {
                return Ok((Arc::new(Held { images: self.clone(), pin }), CacheOutcome::Hit));
            }
            let pull = state
                .pulls
                .entry(digest)
                .or_insert_with(|| self.start_pull(repository.to_owned(), digest));
            pull.clone()
        };
        Ok(pull.await?)
    }

    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.state().cache.has(digest)
    }

    /// Whether an image of this size fits without another's going.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        self.state().cache.has_room_for(bytes)
    }

    /// What is here, the most recently used first, and its bytes in all.
    pub(crate) fn cached(&self) -> (Vec<Digest>, u64) {
        let state = self.state();
        (state.cache.digests(), state.cache.bytes())
    }

    fn start_pull(&self, repository: String, digest: Digest) -> Pull {
        let images = self.clone();
        let pull = async move {
            let pulled = images.pull(&repository, digest).await;
            // From here on, who asks finds it in the cache, or begins anew.
            images.state().pulls.remove(&digest);
            pulled
        };
        let pull = tokio::spawn(pull.in_current_span());
        async move { pull.await.unwrap_or(Err(NotPulled::Interrupted)) }.boxed().shared()
    }

    async fn pull(&self, repository: &str, digest: Digest) -> Pulled {
        let Inner { engine, sources, .. } = &*self.0;
        let (reference, outcome) = sources.pull(engine, repository, digest).await?;
        let name = reference.to_string();
        let failed = |error| NotPulled::Failed { image: name.clone(), error: Arc::new(error) };
        let info = engine.image(&name).await.map_err(failed)?;
        let info = info
            .ok_or_else(|| failed(mecapy_engine::Error::ImageNotFound { image: name.clone() }))?;
        let names = local_images::by_digest(&info.repo_digests, &sources.hosts())
            .into_iter()
            .find_map(|(known, names)| (known == digest).then_some(names))
            .unwrap_or_else(|| vec![name.clone()]);

        let layers = local_images::layers(engine, &info).await;
        let has_runner = local_images::has_runner(&info);
        let mut state = self.state();
        state.cache.insert(digest, Image { id: info.id, names, layers, has_runner });
        // Held before anybody can put it out.
        let pin = state.cache.pin(digest).ok_or(NotPulled::Interrupted)?;
        drop(state);
        self.0.changed.notify_one();
        Ok((Arc::new(Held { images: self.clone(), pin }), outcome))
    }

    /// Puts out what is too much, for as long as the process runs.
    async fn evict(self) {
        let mut wait = LOOK_AGAIN_AFTER;
        loop {
            let _ = tokio::time::timeout(wait, self.0.changed.notified()).await;
            wait = Duration::MAX;
            // What is too much since a task's pull goes when that one has ended.
            while !self.state().cache.is_within_bounds() {
                let _turn = self.0.background.turn(EVICT_WITHIN).await;
                let Some((digest, image)) = self.pop_excess() else { break };
                if let Err(error) = self.remove(&image).await {
                    // A container has it that is on its way out, or somebody else's, or the engine is away.
                    tracing::warn!(%digest, error = mecapy_service::chain(&error), "an image could not be put out");
                    self.state().cache.insert(digest, image);
                    wait = LOOK_AGAIN_AFTER;
                    break;
                }
                metrics::evicted();
                tracing::info!(%digest, "put an image out");
            }
            let state = self.state();
            metrics::cached(state.cache.len(), state.cache.bytes());
        }
    }

    fn pop_excess(&self) -> Option<(Digest, Image)> {
        self.state().cache.pop_excess()
    }

    async fn remove(&self, image: &Image) -> Result<(), mecapy_engine::Error> {
        for name in &image.names {
            self.0.engine.remove_image(name).await?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
