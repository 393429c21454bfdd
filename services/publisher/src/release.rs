//! Where an image is published, and the copy.

use futures::future::try_join;
use mecapy_proto::FunctionId;
use mecapy_registry::{
    CopyReport, Destination, Error, ImageRef, ProgressSink, Registry, Source, copy_image,
};

const BASES: &str = "mecapy/base/python";

/// The names of one image: all from the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    repository: String,
    /// Of this image alone.
    tag: String,
    /// Leads to the newest. None: a newer one is out already.
    moving_tag: Option<String>,
    /// The fallback gets it too, and before a tag moves on either.
    on_fallback: bool,
}

/// What a copy came to, over all registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    pub report: CopyReport,
    pub registries: Vec<String>,
}

impl Release {
    pub fn function(owner: &str, function: FunctionId, tag: &str, superseded: bool) -> Self {
        Self {
            repository: format!("mecapy/functions/user-{owner}-func-{function}"),
            tag: tag.to_owned(),
            moving_tag: (!superseded).then(|| "latest".to_owned()),
            on_fallback: false,
        }
    }

    /// `base` is "3.11-slim".
    pub fn base(base: &str, tag: &str, superseded: bool) -> Self {
        Self {
            repository: BASES.to_owned(),
            tag: tag.to_owned(),
            moving_tag: (!superseded).then(|| base.to_owned()),
            on_fallback: true,
        }
    }

    pub fn reference(&self, registry: &Registry) -> ImageRef {
        ImageRef::new(registry.host(), &self.repository).with_tag(&self.tag)
    }

    /// Copies the image and moves the tags. It can be run again after any failure.
    pub async fn copy(
        &self,
        from: &Source,
        primary: &Registry,
        fallback: Option<&Registry>,
    ) -> Result<Copied, Error> {
        let moving_tag = self.moving_tag.as_slice();
        let Some(fallback) = fallback.filter(|_| self.on_fallback) else {
            let tags = [std::slice::from_ref(&self.tag), moving_tag].concat();
            let report = self.copy_to(primary, from, tags).await?;
            return Ok(Copied { report, registries: vec![primary.host().to_owned()] });
        };
        let whole = |registry| async move {
            let report = self.copy_to(registry, from, vec![self.tag.clone()]).await?;
            // It may have had the image, and have lost it since.
            registry.manifest(&self.repository, &from.digest.to_string()).await?;
            Ok::<_, Error>(report)
        };
        let (one, other) = try_join(whole(primary), whole(fallback)).await?;
        for registry in [fallback, primary] {
            self.copy_to(registry, from, moving_tag.to_vec()).await?;
        }
        Ok(Copied {
            report: sum(one, other),
            registries: [primary, fallback].map(|registry| registry.host().to_owned()).to_vec(),
        })
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
