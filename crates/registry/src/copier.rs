//! Copying many images to one registry.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};

use crate::copy::STREAMS;
use crate::copy_plan::Plan;
use crate::holders::Holders;
use crate::progress::Meter;
use crate::registry::Registry;
use crate::{CopyReport, Descriptor, Digest, Error, Manifest, ProgressSink, Source};

/// Before each look at a manifest that was put.
const READ_BACK: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1_600),
];

/// Copies images to one registry. Clones, and all the copies they make at once, know together which
/// repository holds which blob: one that many images share is sent once and mounted after.
#[derive(Clone)]
pub struct Copier(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) to: Registry,
    pub(crate) holders: Holders,
}

/// Where in the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub repository: String,
    /// Moved in this order, after the image is whole.
    pub tags: Vec<String>,
    /// Other repositories of the destination that may hold some of the blobs. One that does not costs a call for
    /// each blob.
    pub mount_from: Vec<String>,
}

/// What a copy would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreseen {
    pub is_unchanged: bool,
    /// Blobs that the destination lacks.
    pub missing: Vec<Descriptor>,
    /// Of all blobs of the image. 0 where nothing had to be looked at.
    pub bytes: u64,
}

/// How an image stands at the destination: what [`Copier::look`] saw.
#[derive(Clone, Debug)]
pub struct Look {
    /// Its manifest is there, and what that needs, as far as the registry has seen to it.
    is_whole: bool,
    /// Tags that lead elsewhere or nowhere.
    tags_to_move: Vec<String>,
}

/// An image that is at the destination, whole.
#[derive(Clone, Debug)]
pub struct Brought {
    pub report: CopyReport,
    /// As the destination serves it. A tag is moved by putting this under it.
    pub manifest: Manifest,
}

impl Look {
    /// A copy has nothing to do, not even for a tag.
    pub fn is_unchanged(&self) -> bool {
        self.is_whole && self.tags_to_move.is_empty()
    }
}

impl std::fmt::Debug for Copier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Copier").field(&self.0.to).finish()
    }
}

impl Copier {
    pub fn new(to: Registry) -> Self {
        Self(Arc::new(Inner { to, holders: Holders::default() }))
    }

    /// Where it copies to.
    pub fn registry(&self) -> &Registry {
        &self.0.to
    }

    /// Copies the image or index and moves the tags to it.
    pub async fn copy(
        &self,
        from: &Source,
        to: &Target,
        progress: &ProgressSink,
    ) -> Result<CopyReport, Error> {
        let look = self.look(from, to).await?;
        self.copy_seen(&look, from, to, progress).await
    }

    /// The same without a tag.
    pub async fn bring_image(
        &self,
        from: &Source,
        repository: &str,
        progress: &ProgressSink,
    ) -> Result<Brought, Error> {
        let to = Target { repository: repository.to_owned(), ..Target::default() };
        // Hardly one is there already, and to copy one again moves no more than what is small: that is not looked for.
        let plan = match Plan::read(&from.registry, &from.repository, &from.digest).await {
            Ok(plan) => plan,
            // Unless it was copied before it went from its source.
            Err(gone) if gone.is_not_found() && self.look(from, &to).await?.is_whole => {
                let manifest = self.served(repository, &from.digest).await?;
                return Ok(Brought { report: CopyReport::default(), manifest });
            }
            Err(error) => return Err(error),
        };
        let (report, verified) = self.content(from, &to, plan, progress).await?;
        let manifest = match verified {
            Some(manifest) => manifest,
            None => self.served(repository, &from.digest).await?,
        };
        Ok(Brought { report, manifest })
    }

    /// The same after a look that was had already.
    pub async fn copy_seen(
        &self,
        look: &Look,
        from: &Source,
        to: &Target,
        progress: &ProgressSink,
    ) -> Result<CopyReport, Error> {
        let (mut report, verified) = if look.is_whole {
            Default::default()
        } else {
            let plan = Plan::read(&from.registry, &from.repository, &from.digest).await?;
            self.content(from, to, plan, progress).await?
        };
        self.move_tags(from.digest, &to.repository, &look.tags_to_move, verified).await?;
        report.is_unchanged = look.is_unchanged();
        Ok(report)
    }

    /// What [`Copier::copy`] would do now.
    pub async fn foresee(&self, from: &Source, to: &Target) -> Result<Foreseen, Error> {
        let look = self.look(from, to).await?;
        if look.is_whole {
            return Ok(Foreseen { is_unchanged: look.is_unchanged(), ..Foreseen::default() });
        }
        let plan = Plan::read(&from.registry, &from.repository, &from.digest).await?;
        let blobs = plan.blobs(&plan.digests());
        let bytes = blobs.iter().map(|blob| blob.size).sum();
        let looks: Vec<_> = blobs
            .into_iter()
            .map(|blob| async move {
                for repository in [&to.repository].into_iter().chain(&to.mount_from) {
                    if self.0.to.blob_is_whole(repository, &blob).await? {
                        return Ok::<_, Error>(None);
                    }
                }
                Ok(Some(blob))
            })
            .collect();
        let missing = futures::stream::iter(looks)
            .buffer_unordered(STREAMS)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await?;
        Ok(Foreseen { is_unchanged: false, missing, bytes })
    }

    /// What is there: one call for an image that is not, and one more for each tag of one that is.
    pub async fn look(&self, from: &Source, to: &Target) -> Result<Look, Error> {
        let there = self.0.to.resolve(&to.repository, &from.digest.to_string()).await?;
        let Some(there) = there else {
            // No tag leads to what is not there.
            return Ok(Look { is_whole: false, tags_to_move: to.tags.clone() });
        };
        let tags = self.leads(to, &to.tags, &from.digest).await?;
        let moved = to.tags.iter().zip(tags).filter(|(_, lead)| *lead != Some(from.digest));
        Ok(Look {
            is_whole: is_whole(&there),
            tags_to_move: moved.map(|(tag, _)| tag.clone()).collect(),
        })
    }

    /// Whether a copy has nothing to do: one call for each tag, where [`Copier::look`] takes one more.
    pub async fn is_unchanged(&self, from: &Source, to: &Target) -> Result<bool, Error> {
        let Some((first, others)) = to.tags.split_first() else {
            return Ok(self.look(from, to).await?.is_unchanged());
        };
        // By the first the manifest itself is looked at.
        let (there, others) = futures::try_join!(
            self.0.to.resolve(&to.repository, first),
            self.leads(to, others, &from.digest)
        )?;
        let is_whole = there.is_some_and(|there| there.digest == from.digest && is_whole(&there));
        Ok(is_whole && others.iter().all(|lead| *lead == Some(from.digest)))
    }

    /// Where each tag leads.
    async fn leads(
        &self,
        to: &Target,
        tags: &[String],
        expected: &Digest,
    ) -> Result<Vec<Option<Digest>>, Error> {
        let leads = tags.iter().map(|tag| self.0.to.leads_to(&to.repository, tag, expected));
        futures::future::try_join_all(leads).await
    }

    /// Everything but the tags. Gives the manifest as the destination serves it, if it was new there.
    pub(crate) async fn content(
        &self,
        from: &Source,
        to: &Target,
        plan: Plan,
        progress: &ProgressSink,
    ) -> Result<(CopyReport, Option<Manifest>), Error> {
        match self.planned(from, to, &plan, progress).await {
            // What this process remembers of the destination is out of date: blobs were deleted there.
            Err(error) if is_blob_unknown(&error) => {
                self.0.holders.forget(plan.all_blobs());
                self.planned(from, to, &plan, progress).await
            }
            done => done,
        }
    }

    async fn planned(
        &self,
        from: &Source,
        to: &Target,
        plan: &Plan,
        progress: &ProgressSink,
    ) -> Result<(CopyReport, Option<Manifest>), Error> {
        let missing = self.missing(&to.repository, plan).await?;
        let report = self.blobs(from, to, plan.blobs(&missing), progress).await?;
        let mut verified = None;
        for (manifest, _) in plan.manifests.iter().filter(|(m, _)| missing.contains(&m.digest)) {
            verified = Some(self.put_manifest(&to.repository, manifest).await?);
        }
        // The last of the plan is the root; another can be the last one put when the root was there.
        Ok((report, verified.filter(|manifest| manifest.digest == from.digest)))
    }

    /// The manifests of the plan that the destination lacks.
    async fn missing(&self, repository: &str, plan: &Plan) -> Result<BTreeSet<Digest>, Error> {
        // A single image is brought whether it is there or not.
        if plan.manifests.len() == 1 {
            return Ok(plan.digests());
        }
        let looks: Vec<_> = plan
            .digests()
            .into_iter()
            .map(|digest| async move {
                let there = self.0.to.resolve(repository, &digest.to_string()).await?;
                Ok::<_, Error>(there.is_none().then_some(digest))
            })
            .collect();
        futures::stream::iter(looks)
            .buffer_unordered(STREAMS)
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await
    }

    async fn blobs(
        &self,
        from: &Source,
        to: &Target,
        blobs: Vec<Descriptor>,
        progress: &ProgressSink,
    ) -> Result<CopyReport, Error> {
        use crate::blob_copy::Moved;
        let mut report = CopyReport { blobs: blobs.len() as u64, ..CopyReport::default() };
        let bytes_total = blobs.iter().map(|blob| blob.size).sum();
        let meter = Meter::new(progress, bytes_total, report.blobs);
        let copies: Vec<_> =
            blobs.into_iter().map(|blob| self.blob(from, to, blob, meter.clone())).collect();
        let mut copies = futures::stream::iter(copies).buffer_unordered(STREAMS);
        while let Some((moved, bytes)) = copies.try_next().await? {
            match moved {
                Moved::Sent => report.bytes_sent += bytes,
                Moved::Mounted => report.bytes_mounted += bytes,
                Moved::Skipped => report.bytes_skipped += bytes,
            }
        }
        Ok(report)
    }

    /// Puts a manifest by digest, and reads it back as whoever pulls it will.
    async fn put_manifest(&self, repository: &str, manifest: &Manifest) -> Result<Manifest, Error> {
        let (registry, reference) = (&self.0.to, manifest.digest.to_string());
        registry.put_manifest(repository, &reference, manifest).await?;
        // Some show what they took a little later.
        for pause in READ_BACK {
            // A sleep of nothing takes a millisecond.
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            match registry.manifest(repository, &reference).await {
                Err(error) if error.is_not_found() => {}
                other => return other,
            }
        }
        let subject = format!("manifest {repository}@{reference}");
        Err(Error::Lost { host: registry.host().to_owned(), subject })
    }

    /// A manifest that was seen at the destination. Where it has gone since, it is not its source that lacks it.
    async fn served(&self, repository: &str, digest: &Digest) -> Result<Manifest, Error> {
        match self.0.to.manifest(repository, &digest.to_string()).await {
            Err(Error::NotFound { host, subject }) => Err(Error::Lost { host, subject }),
            other => other,
        }
    }

    /// Moves tags. `verified` is what the destination serves, if it was read already: that, not what was sent, is
    /// what a tag leads to.
    async fn move_tags(
        &self,
        digest: Digest,
        repository: &str,
        tags: &[String],
        verified: Option<Manifest>,
    ) -> Result<(), Error> {
        if tags.is_empty() {
            return Ok(());
        }
        let manifest = match verified {
            Some(manifest) => manifest,
            None => self.served(repository, &digest).await?,
        };
        for tag in tags {
            self.0.to.put_manifest(repository, tag, &manifest).await?;
        }
        Ok(())
    }
}

/// An image's manifest was accepted only with its blobs. The child of an index may have been deleted since, which
/// registries allow, so an index is looked through.
fn is_whole(there: &Descriptor) -> bool {
    use crate::media_types::{DOCKER_LIST, OCI_INDEX};
    !matches!(there.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
}

/// The answer to a manifest that names what the registry has not got: a code that says so (distribution specification,
/// codes 1, 5 and 7), or a 404 that is not about the repository.
fn is_blob_unknown(error: &Error) -> bool {
    match error {
        Error::Status { status, detail, .. } => {
            let is_told = |code: &str| detail.contains(code);
            is_told("BLOB_UNKNOWN")
                || is_told("MANIFEST_UNKNOWN")
                || (*status == 404 && !is_told("NAME_UNKNOWN"))
        }
        _ => false,
    }
}
