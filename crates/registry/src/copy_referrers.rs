//! What refers to an image goes with it, and what refers to that: the signature of its SBOM.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _};

use crate::copier::{Copier, Target};
use crate::copy::STREAMS;
use crate::copy_plan::Plan;
use crate::referrers::{Referrer, lacking};
use crate::{CopyReport, Digest, Error, ProgressSink, Source};

/// A signature of an SBOM is two away from its image. What refers to more distant ones is not looked for.
const MAX_DEPTH: usize = 8;
/// Manifests that are asked for what refers to them, the image among them. Each build of an image leaves four.
const MAX_SUBJECTS: usize = 256;

/// What refers to one manifest at the source and not at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingReferrers {
    pub subject: Digest,
    pub referrers: Vec<Referrer>,
}

impl Copier {
    /// What refers to an image at its source, or to what refers to it, and does not so at the destination, where the
    /// image itself is. Those of a subject come before those of what refers to it. One call where nothing refers to the
    /// image.
    pub async fn missing_referrers(
        &self,
        from: &Source,
        repository: &str,
    ) -> Result<Vec<MissingReferrers>, Error> {
        let mut all = Vec::new();
        // A list may name whatever its writer wanted, the image itself too.
        let mut asked = BTreeSet::new();
        let (mut level, mut is_all) = (vec![from.digest], true);
        for _ in 0..MAX_DEPTH {
            let subjects = level.into_iter().filter(|subject| asked.insert(*subject));
            let looks: Vec<_> =
                subjects.map(|subject| self.compare(from, repository, subject)).collect();
            let mut looks = futures::stream::iter(looks).buffered(STREAMS);
            let room = MAX_SUBJECTS.saturating_sub(asked.len());
            level = Vec::new();
            while let Some((there, missing)) = looks.try_next().await? {
                level.extend(there.into_iter().filter(|digest| !asked.contains(digest)));
                // A list grows at its end: those are the newest.
                let too_many = level.len().saturating_sub(room);
                level.drain(..too_many);
                is_all &= too_many == 0;
                if !missing.referrers.is_empty() {
                    all.push(missing);
                }
            }
            if level.is_empty() {
                break;
            }
        }
        if !is_all || !level.is_empty() {
            tracing::warn!(
                registry.host = from.registry.host(),
                repository = from.repository,
                digest = %from.digest,
                asked = asked.len(),
                "not all that refers to what refers to an image is looked for: it is too much"
            );
        }
        Ok(all)
    }

    /// What refers to one manifest at the source, and what of that does not at the destination.
    async fn compare(
        &self,
        from: &Source,
        repository: &str,
        subject: Digest,
    ) -> Result<(Vec<Digest>, MissingReferrers), Error> {
        let there = from.registry.referrers(&from.repository, &subject).await?;
        let mut missing = MissingReferrers { subject, referrers: Vec::new() };
        if !there.is_empty() {
            let here = self.0.to.referrers(repository, &subject).await?;
            missing.referrers = lacking(&here, &there);
        }
        Ok((there.iter().map(|referrer| referrer.digest).collect(), missing))
    }

    /// Brings referrers, which are found once they are listed too: [`crate::Registry::list_referrers`]. One that the
    /// source lists and hasn't got is left out.
    pub async fn bring_referrers(
        &self,
        from: &Source,
        repository: &str,
        referrers: Vec<Referrer>,
    ) -> Result<(CopyReport, Vec<Referrer>), Error> {
        let to = Target { repository: repository.to_owned(), ..Target::default() };
        let copies: Vec<_> = referrers
            .into_iter()
            .map(|referrer| {
                let to = &to;
                async move { Ok::<_, Error>((self.referrer(from, to, &referrer).await?, referrer)) }
            })
            .collect();
        let mut copies = futures::stream::iter(copies).buffered(STREAMS);
        let mut report = CopyReport::default();
        let mut brought = Vec::new();
        while let Some((copied, referrer)) = copies.try_next().await? {
            let Some(one) = copied else { continue };
            report.bytes_sent += one.bytes_sent;
            report.bytes_mounted += one.bytes_mounted;
            report.bytes_skipped += one.bytes_skipped;
            report.blobs += one.blobs;
            brought.push(referrer);
        }
        report.is_unchanged = brought.is_empty();
        Ok((report, brought))
    }

    /// None: its source lists it and hasn't got it.
    async fn referrer(
        &self,
        from: &Source,
        to: &Target,
        referrer: &Referrer,
    ) -> Result<Option<CopyReport>, Error> {
        let from = Source { digest: referrer.digest, ..from.clone() };
        let plan = match Plan::read(&from.registry, &from.repository, &from.digest).await {
            Ok(plan) => plan,
            Err(error) if error.is_not_found() => {
                tracing::debug!(
                    registry.host = from.registry.host(),
                    repository = from.repository,
                    digest = %from.digest,
                    "a referrer is listed and not there"
                );
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (report, _) = self.content(&from, to, plan, &ProgressSink::none()).await?;
        Ok(Some(report))
    }
}
