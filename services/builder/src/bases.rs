//! The base images, found by Python version and variant.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use mecapy_proto::ErrorCode;
use mecapy_registry::{
    Content, Descriptor, Destination, Digest, ImageRef, Manifest, ProgressSink, Registry, Source,
    copy_image,
};

use crate::Error;
use crate::rejection::Rejection;

const REPOSITORY: &str = "mecapy/base/python";
/// Manifests are small and never change; more than this many bases are not in use at once.
const MAX_CACHED: usize = 64;

/// A base image of one platform, in the registry in which images are made.
#[derive(Debug, Clone)]
pub struct BaseImage {
    pub repository: String,
    pub manifest: Manifest,
    pub python: String,
    pub variant: String,
}

impl BaseImage {
    pub fn reference(&self, registry: &Registry) -> ImageRef {
        ImageRef::new(registry.host(), &self.repository).with_digest(self.manifest.digest)
    }
}

/// Finds base images in the primary registry, and brings them to staging where that is another.
#[derive(Debug)]
pub struct Bases {
    primary: Registry,
    staging: Registry,
    platform: String,
    manifests: Mutex<HashMap<Digest, Manifest>>,
}

impl Bases {
    pub fn new(primary: Registry, staging: Registry, platform: String) -> Self {
        Self { primary, staging, platform, manifests: Mutex::default() }
    }

    /// The base image that the tag names now.
    pub async fn find(&self, python: &str, variant: &str) -> Result<BaseImage, Error> {
        let tag = format!("{python}-{variant}");
        let found = self
            .primary
            .resolve(REPOSITORY, &tag)
            .await
            .map_err(Error::registry("looking for the base image"))?;
        let Some(found) = found else {
            return Err(Rejection::new(
                ErrorCode::UnsupportedPython,
                format!("there is no base image for Python {python} ({variant}) yet; operators can add it"),
            )
            .into());
        };
        let manifest = self.manifest_of_platform(found.digest).await?;
        Ok(BaseImage {
            repository: REPOSITORY.to_owned(),
            manifest,
            python: python.to_owned(),
            variant: variant.to_owned(),
        })
    }

    async fn manifest_of_platform(&self, digest: Digest) -> Result<Manifest, Error> {
        if let Some(manifest) = self.cached(&digest) {
            return Ok(manifest);
        }
        if !self.primary.is_same_registry(&self.staging) {
            self.bring(digest).await?;
        }
        let mut manifest = self.read(&digest).await?;
        let content = manifest.parse().map_err(Error::registry("reading the base image"))?;
        if let Content::Index { manifests } = content {
            let child =
                manifests.iter().find(|child| self.is_of_platform(child)).ok_or_else(|| {
                    Rejection::new(
                        ErrorCode::UnsupportedPython,
                        format!("the base image has no {} variant", self.platform),
                    )
                })?;
            manifest = self.read(&child.digest).await?;
        }
        let mut cache = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(digest, manifest.clone());
        Ok(manifest)
    }

    fn cached(&self, digest: &Digest) -> Option<Manifest> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    async fn read(&self, digest: &Digest) -> Result<Manifest, Error> {
        self.staging
            .manifest(REPOSITORY, &digest.to_string())
            .await
            .map_err(Error::registry("reading the base image"))
    }

    async fn bring(&self, digest: Digest) -> Result<(), Error> {
        let from =
            Source { registry: self.primary.clone(), repository: REPOSITORY.to_owned(), digest };
        let to = Destination {
            registry: self.staging.clone(),
            repository: REPOSITORY.to_owned(),
            tags: Vec::new(),
        };
        let copied = copy_image(&from, &to, &ProgressSink::none()).await;
        copied.map(drop).map_err(Error::registry("bringing the base image to staging"))
    }

    fn is_of_platform(&self, child: &Descriptor) -> bool {
        child
            .platform
            .as_ref()
            .is_some_and(|p| format!("{}/{}", p.os, p.architecture) == self.platform)
    }
}
