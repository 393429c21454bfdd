//! Copies one image of a run, and records what became of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing};
use mecapy_proto::v1::{Failure, MirrorImage};
use mecapy_proto::{ErrorCode, failure};
use mecapy_registry::{
    Copier, CopyReport, Digest, Error, ProgressSink, Registry, Source, Target, Verifier,
};
use mecapy_service::chain;
use mecapy_store::mirror_runs::{self, Ended, Image, Recorded, Work};
use mecapy_store::{PgPool, Turn, mirror_choice};

use crate::choice::{self, BASE_REPOSITORY};
use crate::progress::Telling;
use crate::{latest, metric_definitions as metrics, report};

const LATEST: &str = "latest";

/// The handler of `mirror.image`.
#[derive(Debug)]
pub struct CopyImage {
    pool: PgPool,
    primary: Registry,
    copier: Copier,
    max_deliveries: u64,
    /// Of the run that was verified last.
    verifier: Mutex<Option<(String, Arc<Verifier>)>>,
}

impl Handler<MirrorImage> for CopyImage {
    async fn handle(
        &self,
        event: MirrorImage,
        delivery: &Delivery,
    ) -> Result<Outcome, HandlerError> {
        let digest: Digest = event
            .digest
            .parse()
            .map_err(|error: Error| HandlerError::permanent(error.to_string()))?;
        // The record says what is copied, and that it is still to be done: anybody may publish an event.
        let run = event.run_id;
        let Some(work) =
            mirror_runs::work(&self.pool, &run, &event.repository, &event.digest).await?
        else {
            return Err(HandlerError::permanent(format!(
                "{}@{digest} is no image of a run {run:?}",
                event.repository
            )));
        };
        if work.image.outcome()?.is_some() {
            return Ok(Outcome::nothing());
        }
        let began = Instant::now();
        let mut ended = match self.attend(&run, &work, digest).await {
            Ok(ended) => ended,
            Err(Trouble::Later(error)) if delivery.count < self.max_deliveries => {
                return Err(error);
            }
            Err(Trouble::Later(error)) => {
                let reason = format!("given up after {} tries: {error}", delivery.count);
                Ended::without_bytes(
                    mirror_runs::Outcome::Failed,
                    Some(failure(ErrorCode::PushFailed, reason)),
                )
            }
            Err(Trouble::Never(outcome, failure)) => Ended::without_bytes(outcome, Some(failure)),
        };
        ended.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tell(&run, &work.image, &ended);
        Ok(record(run, work.image, ended))
    }
}

/// Why an image was not copied.
enum Trouble {
    /// The message comes again.
    Later(HandlerError),
    Never(mirror_runs::Outcome, Failure),
}

impl From<HandlerError> for Trouble {
    fn from(error: HandlerError) -> Self {
        Self::Later(error)
    }
}

impl From<mecapy_store::Error> for Trouble {
    fn from(error: mecapy_store::Error) -> Self {
        Self::Later(error.into())
    }
}

impl CopyImage {
    pub fn new(pool: PgPool, primary: Registry, copier: Copier, max_deliveries: u64) -> Self {
        Self { pool, primary, copier, max_deliveries, verifier: Mutex::new(None) }
    }

    async fn attend(&self, run: &str, work: &Work, digest: Digest) -> Result<Ended, Trouble> {
        let image = &work.image;
        let report = match self.copy(run, work, digest).await {
            Ok(report) => report,
            Err(error) => return Err(self.explain(error?, image, digest).await),
        };
        let mut ended = Ended {
            bytes_sent: report.bytes_sent,
            bytes_saved: report.bytes_mounted + report.bytes_skipped,
            ..Ended::without_bytes(mirror_runs::Outcome::Mirrored, None)
        };
        if report.is_unchanged {
            ended.outcome = mirror_runs::Outcome::Unchanged;
            ended.bytes_saved = u64::try_from(image.size_bytes).unwrap_or_default();
        }
        let percent = u32::try_from(work.verify_percent).unwrap_or_default();
        if choice::is_sampled(run, &image.digest, percent) {
            self.verify(run, image, digest).await?;
            ended.verified = true;
        }
        Ok(ended)
    }

    /// The inner error is the registries'; the outer one the database's.
    async fn copy(
        &self,
        run: &str,
        work: &Work,
        digest: Digest,
    ) -> Result<CopyReport, Result<Error, Trouble>> {
        let image = &work.image;
        let from =
            Source { registry: self.primary.clone(), repository: image.repository.clone(), digest };
        let of_database = |error: mecapy_store::Error| Err(Trouble::from(error));
        let is_base = image.repository == BASE_REPOSITORY;
        // Whether this one is still the current one was asked just now, and is once more after the copy.
        let wants_latest = !is_base
            && image.tags.iter().any(|tag| tag == LATEST)
            && work.current_digest.as_ref() == Some(&image.digest);
        let with = |tag: &&String| match is_base {
            true => !choice::is_moving(tag),
            false => wants_latest || *tag != LATEST,
        };
        let mut to = Target {
            repository: image.repository.clone(),
            tags: image.tags.iter().filter(with).cloned().collect(),
            mount_from: Vec::new(),
        };
        let look = self.copier.look(&from, &to).await.map_err(Ok)?;
        if !look.is_unchanged() && !is_base {
            let sibling = mirror_choice::sibling(&self.pool, &image.repository, &image.digest);
            to.mount_from.extend(sibling.await.map_err(of_database)?);
            to.mount_from.push(BASE_REPOSITORY.to_owned());
        }
        let telling = Telling::of(&self.pool, run, image);
        let report = self.copier.copy_seen(&look, &from, &to, &telling.sink).await;
        drop(telling);
        let mut report = report.map_err(Ok)?;
        self.copy_referrers(&from, &mut report).await?;
        for tag in image.tags.iter().filter(|tag| is_base && choice::is_moving(tag)) {
            report.is_unchanged &= self.follow_base(&from, tag).await?;
        }
        if wants_latest && !report.is_unchanged {
            latest::follow(&self.pool, &self.copier, &image.repository, &image.digest)
                .await
                .map_err(|error| Err(Trouble::Later(error)))?;
        }
        Ok(report)
    }

    /// What refers to the image goes with it, and what refers to that.
    async fn copy_referrers(
        &self,
        from: &Source,
        report: &mut CopyReport,
    ) -> Result<(), Result<Error, Trouble>> {
        let (fallback, repository) = (self.copier.registry(), &from.repository);
        for missing in self.copier.missing_referrers(from, repository).await.map_err(Ok)? {
            let subject = missing.subject;
            let brought = self.copier.bring_referrers(from, repository, missing.referrers).await;
            let (brought, referrers) = brought.map_err(Ok)?;
            // Others wait for this turn, and it holds a connection: only for what is quick.
            let digest = subject.to_string();
            let turn = Turn::at_referrers(&self.pool, fallback.host(), repository, &digest).await;
            let _turn = turn.map_err(|error| Err(Trouble::from(error)))?;
            let listed = fallback.list_referrers(repository, &subject, &referrers).await;
            listed.map_err(Ok)?;
            report.bytes_sent += brought.bytes_sent;
            report.bytes_mounted += brought.bytes_mounted;
            report.bytes_skipped += brought.bytes_skipped;
            report.is_unchanged &= brought.is_unchanged;
        }
        Ok(())
    }

    /// `3.11-slim` on the fallback: where it leads on the primary now, which may not be where it led when the run was
    /// planned. The publisher moves both in the same turn. True: nothing had to be done.
    async fn follow_base(&self, from: &Source, tag: &str) -> Result<bool, Result<Error, Trouble>> {
        let turn = Turn::at(&self.pool, &format!("tag {}:{tag}", from.repository)).await;
        let _turn = turn.map_err(|error| Err(Trouble::from(error)))?;
        let now = self.primary.resolve(&from.repository, tag).await.map_err(Ok)?;
        if now.is_none_or(|now| now.digest != from.digest) {
            return Ok(true);
        }
        let to = Target {
            repository: from.repository.clone(),
            tags: vec![tag.to_owned()],
            mount_from: Vec::new(),
        };
        let report = self.copier.copy(from, &to, &ProgressSink::none()).await.map_err(Ok)?;
        Ok(report.is_unchanged)
    }

    /// What a failed copy means for the run.
    async fn explain(&self, error: Error, image: &Image, digest: Digest) -> Trouble {
        if error.is_transient() {
            return Trouble::Later(HandlerError::transient(error));
        }
        if error.is_not_found() {
            // The image itself, or a part of it?
            let reference = digest.to_string();
            match self.primary.resolve(&image.repository, &reference).await {
                Ok(None) => {
                    let reason = "the primary registry no longer has it";
                    return Trouble::Never(
                        mirror_runs::Outcome::NotFound,
                        failure(ErrorCode::ImageNotFound, reason),
                    );
                }
                Ok(Some(_)) => {}
                Err(error) => return Trouble::Later(HandlerError::transient(error)),
            }
        }
        let code = if error.is_unauthorized() {
            ErrorCode::RegistryUnauthorized
        } else if error.is_digest_mismatch() {
            ErrorCode::DigestMismatch
        } else {
            ErrorCode::PushFailed
        };
        Trouble::Never(mirror_runs::Outcome::Failed, failure(code, chain(&error)))
    }

    /// Reads the copy back. What is wrong with it stays wrong: somebody must look.
    async fn verify(&self, run: &str, image: &Image, digest: Digest) -> Result<(), Trouble> {
        let verifier = self.verifier_of(run);
        match verifier.verify(&image.repository, &digest).await {
            Ok(verified) => {
                tracing::debug!(
                    mirror.run = run,
                    repository = image.repository,
                    bytes_read = verified.bytes_read,
                    "the copy was read back"
                );
                Ok(())
            }
            Err(error) if error.is_transient() || error.is_unauthorized() => {
                Err(Trouble::Later(HandlerError::transient(error)))
            }
            Err(error) => {
                metrics::corrupt().increment(1);
                tracing::error!(
                    mirror.run = run,
                    repository = image.repository,
                    digest = image.digest,
                    error = chain(&error),
                    "the fallback's copy is broken: delete the manifest there, collect garbage, mirror it again"
                );
                let reason = format!("the copy on the fallback is broken: {}", chain(&error));
                Err(Trouble::Never(
                    mirror_runs::Outcome::Failed,
                    failure(ErrorCode::DigestMismatch, reason),
                ))
            }
        }
    }

    fn verifier_of(&self, run: &str) -> Arc<Verifier> {
        let mut last = self.verifier.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, verifier)) if of == run => Arc::clone(verifier),
            _ => {
                let verifier = Arc::new(Verifier::new(self.copier.registry().clone()));
                *last = Some((run.to_owned(), Arc::clone(&verifier)));
                verifier
            }
        }
    }
}

fn tell(run: &str, image: &Image, ended: &Ended) {
    let status = ended.outcome.as_str();
    let reason = ended.failure.as_ref().map(|failure| failure.message.as_str());
    let line = format!("{}@{} is {status}", image.repository, image.digest);
    match reason {
        Some(reason) => {
            tracing::warn!(
                mirror.run = run,
                status,
                reason,
                duration_ms = ended.duration_ms,
                "{line}"
            );
        }
        None => tracing::info!(
            mirror.run = run,
            status,
            bytes_sent = ended.bytes_sent,
            bytes_saved = ended.bytes_saved,
            verified = ended.verified,
            duration_ms = ended.duration_ms,
            "{line}"
        ),
    }
}

/// The outcome; with the last one, the end of the run.
fn record(run: String, image: Image, ended: Ended) -> Outcome {
    Outcome::commit(move |conn| {
        Box::pin(async move {
            let recorded =
                mirror_runs::end_image(conn, &run, &image.repository, &image.digest, &ended)
                    .await?;
            if recorded != Recorded::Nothing {
                metrics::images(ended.outcome.as_str()).increment(1);
                metrics::bytes("sent").increment(ended.bytes_sent);
                metrics::bytes("saved").increment(ended.bytes_saved);
            }
            Ok(match recorded {
                Recorded::Run => Outgoing::event(&report::done(conn, &run).await?),
                Recorded::Image | Recorded::Nothing => Outgoing::none(),
            })
        })
    })
}
