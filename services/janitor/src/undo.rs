//! Puts back what a run deleted, or one image: from what was kept of it while its blobs are there, else from the
//! fallback registry.

use bytes::Bytes;
use mecapy_registry::{Destination, Digest, ImageRef, Manifest, ProgressSink, Source, copy_image};
use mecapy_store::cleanup_items::{self, Item, Target};
use mecapy_store::cleanup_runs::{self, Lock, Run};

use crate::{Error, Janitor};

/// The names under which something may have been deleted: a run, or parts of an image's name.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    pub repository: Option<String>,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

impl Named {
    /// `repository[:tag][@digest]`, with a registry in front or without, or a digest alone.
    pub fn read(text: &str) -> Option<Self> {
        if text.parse::<Digest>().is_ok() {
            return Some(Self { repository: None, tag: None, digest: Some(text.to_owned()) });
        }
        let reference: ImageRef = match text.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => text.parse(),
            Some(_) => format!("localhost/{text}").parse(),
            None => return None,
        }
        .ok()?;
        Some(Self {
            repository: Some(reference.repository),
            tag: reference.tag,
            digest: reference.digest.map(|digest| digest.to_string()),
        })
    }

    fn target(&self) -> Target<'_> {
        Target::Image {
            repository: self.repository.as_deref(),
            tag: self.tag.as_deref(),
            digest: self.digest.as_deref(),
        }
    }
}

impl Janitor {
    /// What there is to put back.
    pub(crate) async fn undoable(&self, target: &str) -> Result<Vec<Item>, Error> {
        if cleanup_runs::get(&self.pool, target).await?.is_some() {
            return Ok(cleanup_items::deleted(&self.pool, &Target::Run(target)).await?);
        }
        let Some(named) = Named::read(target) else {
            return Err(Error::Request(format!("{target:?} is neither a run nor an image")));
        };
        Ok(cleanup_items::deleted(&self.pool, &named.target()).await?)
    }

    pub(crate) async fn undo(&self, run: &Run, items: &[Item], lock: &Lock) -> Result<(), Error> {
        // In the other direction than they went: children before their index.
        for item in items {
            if !lock.is_held().await {
                return Err(Error::LockLost);
            }
            let (is_undone, outcome) = self.put_back(item).await?;
            cleanup_items::undo(&self.pool, item, &run.id, is_undone, &outcome).await?;
            tracing::info!(
                run.id = run.id,
                image = format!("{}@{}", item.repository, item.digest),
                is_undone,
                outcome,
                "undo"
            );
        }
        Ok(())
    }

    async fn put_back(&self, item: &Item) -> Result<(bool, String), Error> {
        let digest: Digest = item.digest.parse()?;
        let Some((media_type, raw)) = cleanup_items::manifest(&self.pool, item).await? else {
            let (is_back, outcome) = self.copy_back(item, digest).await?;
            return Ok((is_back, format!("its manifest is kept for 30 days only; {outcome}")));
        };
        let manifest = Manifest::new(Bytes::from(raw), media_type);
        let restored = self.inventory.restore(&item.repository, &manifest, &item.tags).await;
        match restored {
            Ok(()) => Ok((true, self.left_tags(item, digest).await?)),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(error) => {
                tracing::info!(
                    error = mecapy_service::chain(&error),
                    "it can't be put back by itself"
                );
                let (is_back, outcome) = self.copy_back(item, digest).await?;
                let outcome = if is_back {
                    outcome
                } else {
                    format!("{}; {outcome}", mecapy_service::chain(&error))
                };
                Ok((is_back, outcome))
            }
        }
    }

    async fn copy_back(&self, item: &Item, digest: Digest) -> Result<(bool, String), Error> {
        let Some(fallback) = &self.fallback else {
            return Ok((false, "there is no fallback registry to take it from".to_owned()));
        };
        if fallback.resolve(&item.repository, &item.digest).await?.is_none() {
            return Ok((false, "the fallback registry does not hold it".to_owned()));
        }
        let mut tags = Vec::new();
        for tag in &item.tags {
            let now = self.primary.resolve(&item.repository, tag).await?;
            if now.is_none_or(|lead| lead.digest == digest) {
                tags.push(tag.clone());
            }
        }
        let from =
            Source { registry: fallback.clone(), repository: item.repository.clone(), digest };
        let to = Destination {
            registry: self.primary.clone(),
            repository: item.repository.clone(),
            tags,
        };
        copy_image(&from, &to, &ProgressSink::none()).await?;
        let left = self.left_tags(item, digest).await?;
        let separator = if left.is_empty() { "" } else { "; " };
        Ok((true, format!("from the fallback registry{separator}{left}")))
    }

    /// Tags that lead elsewhere by now, and stay there.
    async fn left_tags(&self, item: &Item, digest: Digest) -> Result<String, Error> {
        let mut left = Vec::new();
        for tag in &item.tags {
            let now = self.primary.resolve(&item.repository, tag).await?;
            if now.is_none_or(|lead| lead.digest != digest) {
                left.push(tag.as_str());
            }
        }
        Ok(if left.is_empty() {
            String::new()
        } else {
            format!("leads elsewhere by now and stays there: {}", left.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_with_a_registry_or_without() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let named = |repository: Option<&str>, tag: Option<&str>, digest: Option<&str>| {
            Some(Named {
                repository: repository.map(str::to_owned),
                tag: tag.map(str::to_owned),
                digest: digest.map(str::to_owned),
            })
        };
        let repository = Some("mecapy/functions/user-a-func-1");
        for (text, expected) in [
            (
                "mecapy/functions/user-a-func-1:v1-a".to_owned(),
                named(repository, Some("v1-a"), None),
            ),
            (
                "h:5/mecapy/functions/user-a-func-1:v1-a".to_owned(),
                named(repository, Some("v1-a"), None),
            ),
            (
                format!("mecapy/functions/user-a-func-1@{digest}"),
                named(repository, None, Some(digest)),
            ),
            (digest.to_owned(), named(None, None, Some(digest))),
            ("nonsense".to_owned(), None),
            ("A/B".to_owned(), None),
        ] {
            assert_eq!(Named::read(&text), expected, "{text}");
        }
    }
}
