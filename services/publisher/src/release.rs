//! Where an image is published, and the copy.

use futures::future::try_join;
use mecapy_proto::FunctionId;
use mecapy_registry::{
    CopyReport, Destination, Digest, Error, ImageRef, ProgressSink, Registry, Source, copy_image,
};

const BASES: &str = "mecapy/base/python";

/// The names of one image: all from the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    repository: String,
    /// Of this image alone.
    tag: String,
    /// Leads to the newest.
    moving_tag: String,
    /// The fallback gets it too, and before a tag moves on either.
    on_fallback: bool,
}

/// What a copy came to, over all registries.
#[derive(Debug, Clone)]
pub struct Copied {
    pub report: CopyReport,
    pub registries: Vec<Registry>,
}

impl Release {
    pub fn function(owner: &str, function: FunctionId, tag: &str) -> Self {
        Self {
            repository: format!("mecapy/functions/user-{owner}-func-{function}"),
            tag: tag.to_owned(),
            moving_tag: "latest".to_owned(),
            on_fallback: false,
        }
    }

    /// `base` is "3.11-slim".
    pub fn base(base: &str, tag: &str) -> Self {
        Self {
            repository: BASES.to_owned(),
            tag: tag.to_owned(),
            moving_tag: base.to_owned(),
            on_fallback: true,
        }
    }

    pub fn reference(&self, registry: &Registry) -> ImageRef {
        ImageRef::new(registry.host(), &self.repository).with_tag(&self.tag)
    }

    /// Copies the image under its own tag. It can be run again after any failure.
    pub async fn copy(
        &self,
        from: &Source,
        primary: &Registry,
        fallback: Option<&Registry>,
    ) -> Result<Copied, Error> {
        let tags = || vec![self.tag.clone()];
        let Some(fallback) = fallback.filter(|_| self.on_fallback) else {
            let report = self.copy_to(primary, from, tags()).await?;
            return Ok(Copied { report, registries: vec![primary.clone()] });
        };
        let whole = |registry| async move {
            let report = self.copy_to(registry, from, tags()).await?;
            // It may have had the image, and have lost it since.
            registry.manifest(&self.repository, &from.digest.to_string()).await?;
            Ok::<_, Error>(report)
        };
        let (one, other) = try_join(whole(primary), whole(fallback)).await?;
        // Tags move in this order: whoever sees one on the primary finds it on the fallback.
        let registries = [fallback, primary].map(Registry::clone).to_vec();
        Ok(Copied { report: sum(one, other), registries })
    }

    /// Names the moving tag, for whoever wants to be the only one that moves it.
    pub fn moving(&self) -> String {
        format!("tag {}:{}", self.repository, self.moving_tag)
    }

    /// What the moving tag leads to now.
    pub async fn leads_to(&self, registry: &Registry) -> Result<Option<Digest>, Error> {
        let there = registry.resolve(&self.repository, &self.moving_tag).await?;
        Ok(there.map(|there| there.digest))
    }

    /// Moves the moving tag to the image, which is there.
    pub async fn lead(&self, registry: &Registry, from: &Source) -> Result<(), Error> {
        self.copy_to(registry, from, vec![self.moving_tag.clone()]).await.map(drop)
    }

    async fn copy_to(
        &self,
        registry: &Registry,
        from: &Source,
        tags: Vec<String>,
    ) -> Result<CopyReport, Error> {
        let to =
            Destination { registry: registry.clone(), repository: self.repository.clone(), tags };
        copy_image(from, &to, &ProgressSink::none()).await
    }
}

fn sum(mut all: CopyReport, one: CopyReport) -> CopyReport {
    all.bytes_sent += one.bytes_sent;
    all.bytes_mounted += one.bytes_mounted;
    all.bytes_skipped += one.bytes_skipped;
    all
}
