//! What refers to an image goes with it.

use futures::{StreamExt as _, TryStreamExt as _};

use crate::copier::{Copier, Target};
use crate::copy::STREAMS;
use crate::copy_plan::Plan;
use crate::referrers::{Referrer, lacking};
use crate::{CopyReport, Error, ProgressSink, Source};

impl Copier {
    /// What refers to an image at its source and not at the destination, where the image itself is. One call where
    /// nothing refers to it.
    pub async fn missing_referrers(
        &self,
        from: &Source,
        repository: &str,
    ) -> Result<Vec<Referrer>, Error> {
        let there = from.registry.referrers(&from.repository, &from.digest).await?;
        if there.is_empty() {
            return Ok(there);
        }
        let here = self.0.to.referrers(repository, &from.digest).await?;
        Ok(lacking(&here, &there))
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
