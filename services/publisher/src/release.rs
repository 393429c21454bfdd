//! Where an image is published, and the copy.

use futures::future::try_join;
use mecapy_proto::FunctionId;
use mecapy_registry::{
    Brought, Copier, CopyReport, Digest, Error, ImageRef, Manifest, ProgressSink, Registry, Source,
};

const BASES: &str = "mecapy/base/python";

/// The names of one image: all from the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub(crate) repository: String,
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
    /// The registries, with the image as each serves it.
    pub places: Vec<(Registry, Manifest)>,
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
        primary: &Copier,
        fallback: Option<&Copier>,
    ) -> Result<Copied, Error> {
        let Some(fallback) = fallback.filter(|_| self.on_fallback) else {
            let Brought { report, manifest } = self.copy_to(primary, from).await?;
            return Ok(Copied { report, places: vec![(primary.registry().clone(), manifest)] });
        };
        let (one, other) =
            try_join(self.copy_to(primary, from), self.copy_to(fallback, from)).await?;
        // Tags move in this order: whoever sees one on the primary finds it on the fallback.
        let places = vec![
            (fallback.registry().clone(), other.manifest),
            (primary.registry().clone(), one.manifest),
        ];
        Ok(Copied { report: sum(one.report, other.report), places })
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
    pub async fn lead(&self, registry: &Registry, image: &Manifest) -> Result<(), Error> {
        registry.put_manifest(&self.repository, &self.moving_tag, image).await
    }

    async fn copy_to(&self, copier: &Copier, from: &Source) -> Result<Brought, Error> {
        let brought = copier.bring_image(from, &self.repository, &ProgressSink::none()).await?;
        copier.registry().put_manifest(&self.repository, &self.tag, &brought.manifest).await?;
        Ok(brought)
    }
}

fn sum(mut all: CopyReport, one: CopyReport) -> CopyReport {
    all.bytes_sent += one.bytes_sent;
    all.bytes_mounted += one.bytes_mounted;
    all.bytes_skipped += one.bytes_skipped;
    all
}
