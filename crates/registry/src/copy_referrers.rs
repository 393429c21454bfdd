//! What refers to an image goes with it.

use crate::copier::{Copier, Target};
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

    /// Brings referrers and lists them. Nobody else of ours may list referrers of the same image meanwhile. One that the
    /// source lists and hasn't got is left out.
    pub async fn copy_referrers(
        &self,
        from: &Source,
        repository: &str,
        referrers: Vec<Referrer>,
    ) -> Result<CopyReport, Error> {
        let to = Target { repository: repository.to_owned(), ..Target::default() };
        let mut report = CopyReport::default();
        let mut brought = Vec::with_capacity(referrers.len());
        for referrer in referrers {
            let source = Source { digest: referrer.digest, ..from.clone() };
            let plan = match Plan::read(&source.registry, &source.repository, &source.digest).await
            {
                Ok(plan) => plan,
                Err(error) if error.is_not_found() => {
                    tracing::debug!(
                        registry.host = from.registry.host(),
                        repository = from.repository,
                        digest = %referrer.digest,
                        "a referrer is listed and not there"
                    );
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (one, _) = self.content(&source, &to, plan, &ProgressSink::none()).await?;
            report.bytes_sent += one.bytes_sent;
            report.bytes_mounted += one.bytes_mounted;
            report.bytes_skipped += one.bytes_skipped;
            report.blobs += one.blobs;
            brought.push(referrer);
        }
        self.0.to.list_referrers(repository, &from.digest, &brought).await?;
        report.is_unchanged = brought.is_empty();
        Ok(report)
    }
}
