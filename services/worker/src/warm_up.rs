//! Fetches what tasks will need before they come: base images at start, and what is published, as it is published.
//! A hint only: what is missed here is fetched when a task comes.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mecapy_bus::Live;
use mecapy_engine::{Credentials, Engine};
use mecapy_proto::FunctionId;
use mecapy_proto::v1::PushDone;
use mecapy_registry::ImageRef;
use mecapy_store::scans::Standing;
use mecapy_store::{PgPool, bases, scans};
use tokio::sync::mpsc;

use crate::codes::Codes;
use crate::images::Images;
use crate::pool::Pool;
use crate::sources::Sources;
use crate::{local_images, metric_definitions as metrics};

const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(crate) struct WarmUp {
    pub pool: PgPool,
    pub engine: Engine,
    pub sources: Sources,
    pub images: Images,
    pub codes: Codes,
    pub parked: Pool,
}

impl WarmUp {
    /// Takes up what is published, one at a time, for as long as the process runs. At most `max_waiting` wait; more
    /// are left out.
    pub(crate) async fn listen(self, live: Live, max_waiting: usize) {
        let (queue, mut waiting) = mpsc::channel::<PushDone>(max_waiting);
        let listen = async {
            loop {
                match live.published_images().await {
                    Ok(published) => {
                        take_in(published, &queue, || metrics::warmed_up("left_out")).await;
                    }
                    Err(error) => tracing::warn!(%error, "published images are not heard of"),
                }
                tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
            }
        };
        let work = async {
            self.pull_bases().await;
            while let Some(event) = waiting.recv().await {
                metrics::warmed_up(self.warm_up(&event).await);
            }
        };
        tokio::join!(listen, work);
    }

    /// The base images in force: what every image stands on, so that a first pull is of its own layers alone.
    async fn pull_bases(&self) {
        let current = match bases::current(&self.pool).await {
            Ok(current) => current,
            Err(error) => {
                let error = mecapy_service::chain(&error);
                tracing::warn!(error, "base images are not fetched ahead");
                return;
            }
        };
        for image in current.into_iter().filter_map(|build| build.docker_image) {
            metrics::warmed_up(self.pull_base(&image).await);
        }
    }

    /// Not one of the images that the cache keeps: what stands on it holds its layers.
    async fn pull_base(&self, image: &str) -> &'static str {
        let Ok(ImageRef { repository, digest: Some(digest), .. }) = image.parse() else {
            return "not_ours";
        };
        let registry = &self.sources.primary.registry;
        let reference = ImageRef::new(registry.host(), repository).with_digest(digest);
        if matches!(self.engine.image(&reference.to_string()).await, Ok(Some(_))) {
            return "here";
        }
        let credentials = registry.credentials().map(Credentials::from);
        let pull = self.engine.pull(&reference, credentials.as_ref(), self.sources.limit);
        match pull.await {
            Ok(()) => "pulled",
            Err(error) => {
                let error = mecapy_service::chain(&error);
                tracing::info!(image = %reference, error, "a base image was not fetched ahead");
                "failed"
            }
        }
    }

    /// What became of it, in a word.
    async fn warm_up(&self, event: &PushDone) -> &'static str {
        if !event.base.is_empty() {
            return self.pull_base(&event.image).await;
        }
        let Ok(ImageRef { registry, repository, digest: Some(digest), .. }) = event.image.parse()
        else {
            return "not_ours";
        };
        let is_ours = self.sources.hosts().contains(&registry.as_str())
            && local_images::is_published(&repository);
        let Some(function) = FunctionId::new(event.function_id).ok().filter(|_| is_ours) else {
            return "not_ours";
        };
        // The word of a message is not enough for anything to be started.
        let standing = scans::standing(&self.pool, &digest.to_string(), function).await;
        if !matches!(standing, Ok(Standing::Passed)) {
            return "not_passed";
        }
        let code = self.codes.get(&repository, digest).await;
        if let Some(code) = &code
            && self.parked.parks_for(code)
        {
            return "code";
        }
        if !self.images.has_room_for(event.size_bytes) {
            return "no_room";
        }
        match self.images.take(&repository, digest).await {
            Ok((image, _)) => {
                if let Some(code) = &code {
                    self.parked.learn(code, Arc::clone(&image));
                }
                "pulled"
            }
            Err(_) => "failed",
        }
    }
}

/// Never waits for room: who is published is left out where there is none.
async fn take_in(
    published: impl Stream<Item = PushDone>,
    queue: &mpsc::Sender<PushDone>,
    left_out: impl Fn(),
) {
    let mut published = std::pin::pin!(published);
    while let Some(event) = published.next().await {
        if queue.try_send(event).is_err() {
            left_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn what_is_published_waits_up_to_a_number_and_more_is_left_out() {
        let (queue, mut waiting) = mpsc::channel(2);
        let left_out = Cell::new(0);
        let published = |ids: std::ops::Range<i64>| {
            let event = |function_id| PushDone { function_id, ..PushDone::default() };
            let count = || left_out.set(left_out.get() + 1);
            // It comes to its end at once, however many there are.
            take_in(futures::stream::iter(ids.map(event)), &queue, count).now_or_never().unwrap();
        };
        let mut next = || waiting.try_recv().ok().map(|event| event.function_id);
        published(1..6);
        assert_eq!((next(), next(), next(), left_out.get()), (Some(1), Some(2), None, 3));
        published(6..7);
        assert_eq!((next(), next(), left_out.get()), (Some(6), None, 3));
    }
}
