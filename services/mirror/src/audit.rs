//! What the fallback has already, looked at while a run is planned: most images of a nightly run need no more than that,
//! and no message either.

use std::time::Instant;

use futures::StreamExt as _;
use mecapy_registry::{Error, Source, Target};
use mecapy_store::mirror_runs::{Ended, NewImage, NewRun, Outcome};

use crate::Plan;
use crate::choice;

const LOOKS: usize = 16;
/// After so many images that have work to do, and not one that has none, it is a run that copies everything: each image
/// is looked at when it is copied anyway.
const FIRST: usize = 16;

impl Plan {
    /// Ends those images of a run that are on the fallback as they should be. What can't be looked at now is left open.
    pub(crate) async fn audit(&self, run: &NewRun, images: &mut [NewImage]) {
        let looks: Vec<_> = images
            .iter()
            .enumerate()
            .filter(|(_, image)| image.ended.is_none())
            // What is to be read back is for the replica that copies it.
            .filter(|(_, image)| !choice::is_sampled(&run.id, &image.digest, run.verify_percent))
            .map(|(index, image)| {
                let (repository, digest, tags) =
                    (image.repository.clone(), image.digest.clone(), image.tags.clone());
                async move {
                    let began = Instant::now();
                    let is_unchanged = self.is_unchanged(repository, &digest, tags).await;
                    (index, is_unchanged, began.elapsed())
                }
            })
            .collect();
        let mut looks = futures::stream::iter(looks).buffer_unordered(LOOKS);
        let (mut looked, mut unchanged) = (0, 0);
        while let Some((index, is_unchanged, took)) = looks.next().await {
            looked += 1;
            match is_unchanged {
                Ok(true) => {
                    unchanged += 1;
                    if let Some(image) = images.get_mut(index) {
                        image.ended = Some(Ended {
                            bytes_saved: u64::try_from(image.size_bytes).unwrap_or_default(),
                            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                            ..Ended::without_bytes(Outcome::Unchanged, None)
                        });
                    }
                }
                Ok(false) if unchanged == 0 && looked >= FIRST => break,
                Ok(false) => {}
                // Nor will the others go better.
                Err(_) => break,
            }
        }
    }

    async fn is_unchanged(
        &self,
        repository: String,
        digest: &str,
        tags: Vec<String>,
    ) -> Result<bool, Error> {
        let from = Source {
            registry: self.primary.clone(),
            repository: repository.clone(),
            digest: digest.parse()?,
        };
        let to = Target { repository, tags, mount_from: Vec::new() };
        let (is_unchanged, referrers) = futures::join!(
            self.copier.is_unchanged(&from, &to),
            self.copier.missing_referrers(&from, &to.repository)
        );
        Ok(is_unchanged? && referrers?.is_empty())
    }
}
