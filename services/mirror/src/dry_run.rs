//! A dry run: what would move, and how many bytes. It only reads.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _};
use mecapy_bus::{Delivery, HandlerError};
use mecapy_proto::{ErrorCode, failure};
use mecapy_registry::{Digest, Error, Foreseen, Source, Target};
use mecapy_service::chain;
use mecapy_store::mirror_runs::{Ended, NewImage, Outcome};

use crate::Plan;
use crate::choice::BASE_REPOSITORY;
use crate::plan::failed;

const LOOKS: usize = 8;

impl Plan {
    /// Gives each image the end that it would have.
    pub(crate) async fn foresee(
        &self,
        images: &mut [NewImage],
        delivery: &Delivery,
    ) -> Result<(), HandlerError> {
        let may_wait = delivery.count < self.max_deliveries;
        let looks: Vec<_> = images
            .iter()
            .enumerate()
            .filter(|(_, image)| image.ended.is_none())
            .map(|(index, image)| {
                let (repository, digest, tags) =
                    (image.repository.clone(), image.digest.clone(), image.tags.clone());
                async move {
                    match self.foresee_one(repository, &digest, tags).await {
                        Err(error) if error.is_transient() && may_wait => Err(error),
                        other => Ok((index, other)),
                    }
                }
            })
            .collect();
        let mut foreseen: Vec<_> = futures::stream::iter(looks)
            .buffer_unordered(LOOKS)
            .try_collect()
            .await
            .map_err(HandlerError::transient)?;
        // In the order of the images: a blob that several lack counts with the first of them.
        foreseen.sort_by_key(|(index, _)| *index);
        let mut counted = BTreeSet::new();
        for (index, looked) in foreseen {
            if let Some(image) = images.get_mut(index) {
                image.ended = Some(end(looked, image.size_bytes, &mut counted));
            }
        }
        Ok(())
    }

    async fn foresee_one(
        &self,
        repository: String,
        digest: &str,
        tags: Vec<String>,
    ) -> Result<Foreseen, Error> {
        let from = Source {
            registry: self.primary.clone(),
            repository: repository.clone(),
            digest: digest.parse()?,
        };
        let to = Target { repository, tags, mount_from: vec![BASE_REPOSITORY.to_owned()] };
        let mut foreseen = self.copier.foresee(&from, &to).await?;
        if foreseen.is_unchanged {
            let missing = self.copier.missing_referrers(&from, &to.repository).await?;
            foreseen.is_unchanged = missing.is_empty();
        }
        Ok(foreseen)
    }
}

fn end(looked: Result<Foreseen, Error>, size_bytes: i64, counted: &mut BTreeSet<Digest>) -> Ended {
    match looked {
        Ok(foreseen) if foreseen.is_unchanged => Ended {
            bytes_saved: u64::try_from(size_bytes).unwrap_or_default(),
            ..Ended::without_bytes(Outcome::Unchanged, None)
        },
        Ok(foreseen) => {
            let would_move = foreseen.missing.iter().filter(|blob| counted.insert(blob.digest));
            let bytes_sent = would_move.map(|blob| blob.size).sum();
            Ended {
                bytes_sent,
                bytes_saved: foreseen.bytes.saturating_sub(bytes_sent),
                ..Ended::without_bytes(Outcome::Mirrored, None)
            }
        }
        Err(error) if error.is_not_found() => Ended::without_bytes(
            Outcome::NotFound,
            Some(failure(ErrorCode::ImageNotFound, chain(&error))),
        ),
        Err(error) => failed(&chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use mecapy_registry::Descriptor;

    use super::*;

    #[test]
    fn a_blob_that_two_images_lack_moves_once() {
        let blob = |name: &str, size| Descriptor::new("x", Digest::of(name.as_bytes()), size);
        let looked = |own: &str| {
            let missing = vec![blob("shared", 100), blob(own, 7)];
            Ok(Foreseen { is_unchanged: false, missing, bytes: 150 })
        };
        let mut counted = BTreeSet::new();
        let first = end(looked("a"), 0, &mut counted);
        let second = end(looked("b"), 0, &mut counted);
        assert_eq!((first.bytes_sent, first.bytes_saved), (107, 43));
        assert_eq!((second.bytes_sent, second.bytes_saved), (7, 143));
    }
}
