//! Publishes one scanned image.

use std::time::Instant;

use chrono::Utc;
use futures::join;
use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing, topology};
use mecapy_objects::Objects;
use mecapy_proto::BuildId;
use mecapy_proto::v1::{Failure, PushDone, PushFailed, ScanDone, Verdict};
use mecapy_registry::{Copier, Digest, Manifest, Registry, Source};
use mecapy_service::step;
use mecapy_store::builds::Place;
use mecapy_store::{PgPool, StoredFailure, Turn, builds};

use crate::attach::{artifacts, attach};
use crate::checked::{Check, Checked, check};
use crate::metric_definitions as metrics;
use crate::release::{Copied, Release};
use crate::staging::Broom;
use crate::trouble::Trouble;

/// Tries before the end of a base image that can't be published: one less than makes a dead letter, so that its run
/// ends. A function's build is left to whoever replays the dead letter.
const TRIES: u64 = topology::MAX_DELIVERIES - 1;

/// The handler of `scan.done`.
#[derive(Debug)]
pub struct Publish {
    pub pool: PgPool,
    pub objects: Objects,
    pub staging: Broom,
    /// They last as long as this does: what they know of the registries spares calls.
    pub primary: Copier,
    /// Gets base images too.
    pub fallback: Option<Copier>,
}

impl Handler<ScanDone> for Publish {
    const STAGE: Option<&'static str> = Some("publish");

    async fn handle(&self, event: ScanDone, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        match Verdict::try_from(event.verdict) {
            Ok(Verdict::Passed | Verdict::Rejected) => {}
            Ok(Verdict::Unspecified) | Err(_) => {
                return Err(HandlerError::permanent(format!(
                    "verdict {} is not one that is known",
                    event.verdict
                )));
            }
        }
        let id: BuildId = parse(event.build_id.parse())?;
        let digest: Digest = parse(event.digest.parse())?;
        let checked = match check(&self.pool, id, &event, digest).await? {
            Check::Publish(checked) => checked,
            Check::Nothing => return Ok(Outcome::nothing()),
            Check::Refuse(failure) => return Ok(refused(id, &event, failure)),
        };
        let began = Instant::now();
        match self.release(id, &checked).await {
            Ok(copied) => Ok(self.published(id, &event, &checked, copied, began)),
            // The same event at once elsewhere: it was published there, and is gone from staging.
            Err(_) if self.has_ended(id).await? => Ok(Outcome::nothing()),
            Err(Trouble::Store(error)) => Err(error.into()),
            Err(trouble) if trouble.is_transient() && !is_last_try(&checked, delivery) => {
                Err(HandlerError::transient(trouble))
            }
            Err(trouble) => Ok(refused(id, &event, trouble.explain())),
        }
    }
}

fn is_last_try(checked: &Checked, delivery: &Delivery) -> bool {
    checked.build.base.is_some() && delivery.count >= TRIES
}

impl Publish {
    /// Copies the image with what goes with it, then moves the tag that leads to the newest, unless it leads to a newer
    /// one: two versions may be published at once, and the older be done last.
    async fn release(&self, id: BuildId, checked: &Checked) -> Result<Copied, Trouble> {
        let release = &checked.release;
        let from = Source {
            registry: self.staging.staging.clone(),
            repository: checked.staged.repository.clone(),
            digest: checked.digest,
        };
        let copying = release.copy(&from, &self.primary, self.fallback.as_ref());
        let copying = step("copy", copying);
        let (copied, artifacts) = join!(copying, artifacts(&self.objects, checked));
        let (copied, artifacts) = (copied?, artifacts?);
        let attaching = async {
            for (registry, image) in &copied.places {
                attach(&self.pool, registry, &release.repository, image, &artifacts).await?;
            }
            Ok::<_, Trouble>(())
        };
        step("attach reports", attaching).await?;
        step("move tag", self.lead(id, release, &copied)).await?;
        Ok(copied)
    }

    async fn lead(&self, id: BuildId, release: &Release, copied: &Copied) -> Result<(), Trouble> {
        let _turn = Turn::at(&self.pool, &release.moving()).await?;
        for (registry, image) in &copied.places {
            let is_done = match release.leads_to(registry).await? {
                Some(there) if there == image.digest => true,
                Some(there) => builds::is_of_a_newer(&self.pool, &there.to_string(), id).await?,
                None => false,
            };
            if !is_done {
                release.lead(registry, image).await?;
            }
        }
        Ok(())
    }

    async fn has_ended(&self, id: BuildId) -> Result<bool, HandlerError> {
        Ok(builds::get(&self.pool, id).await?.is_some_and(|build| build.state.is_final()))
    }

    fn published(
        &self,
        id: BuildId,
        event: &ScanDone,
        checked: &Checked,
        copied: Copied,
        began: Instant,
    ) -> Outcome {
        let Copied { report, places } = copied;
        metrics::bytes("sent").increment(report.bytes_sent);
        metrics::bytes("mounted").increment(report.bytes_mounted);
        metrics::bytes("skipped").increment(report.bytes_skipped);
        let image = checked.release.reference(self.primary.registry()).with_digest(checked.digest);
        let size = checked.build.size_bytes.and_then(|size| u64::try_from(size).ok());
        let done = PushDone {
            base: event.base.clone(),
            build_id: event.build_id.clone(),
            function_id: event.function_id,
            owner: event.owner.clone(),
            version: event.version,
            image: image.to_string(),
            digest: event.digest.clone(),
            registries: places.iter().map(|(registry, _)| registry.host().to_owned()).collect(),
            bytes_sent: report.bytes_sent,
            bytes_mounted: report.bytes_mounted,
            size_bytes: size.unwrap_or_default(),
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        tracing::info!(
            build.id = %id,
            image = done.image,
            bytes_sent = report.bytes_sent,
            duration_ms = done.duration_ms,
            "published"
        );
        let on = |(registry, image): &(Registry, Manifest)| Place {
            registry: registry.host().to_owned(),
            digest: image.digest.to_string(),
        };
        let on: Vec<Place> = places.iter().map(on).collect();
        let (broom, staged) = (self.staging.clone(), checked.staged.clone());
        let digest = checked.digest;
        // A function's. Nobody waits for a base image.
        let requested_at = checked.build.base.is_none().then_some(checked.build.requested_at);
        Outcome::commit(move |conn| {
            Box::pin(async move {
                if !builds::published(conn, id, &done.image).await? {
                    return Ok(Outgoing::none());
                }
                builds::published_on(conn, id, &on).await?;
                Ok(Outgoing::event(&done))
            })
        })
        .then(move || {
            if let Some(took) = requested_at.and_then(|at| (Utc::now() - at).to_std().ok()) {
                metrics::ready(took);
            }
            broom.sweep_later(id, staged, digest);
        })
    }
}

fn parse<T, E: std::fmt::Display>(parsed: Result<T, E>) -> Result<T, HandlerError> {
    parsed.map_err(|error| HandlerError::permanent(error.to_string()))
}

fn refused(id: BuildId, event: &ScanDone, failure: Failure) -> Outcome {
    let failed = PushFailed {
        base: event.base.clone(),
        build_id: event.build_id.clone(),
        function_id: event.function_id,
        failure: Some(failure.clone()),
    };
    Outcome::commit(move |conn| {
        Box::pin(async move {
            let moved = builds::fail(conn, id, &StoredFailure::from(failure), None).await?;
            Ok(if moved { Outgoing::event(&failed) } else { Outgoing::none() })
        })
    })
}
