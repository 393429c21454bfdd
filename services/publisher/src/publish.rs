//! Publishes one scanned image.

use std::time::Instant;

use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing, topology};
use mecapy_proto::v1::{Failure, PushDone, PushFailed, ScanDone, Verdict};
use mecapy_proto::{BuildId, ErrorCode, failure};
use mecapy_registry::{Digest, ImageRef, Registry, Source};
use mecapy_store::builds::Build;
use mecapy_store::{BuildState, PgPool, StoredFailure, Turn, builds, functions, scans};

use crate::metric_definitions as metrics;
use crate::release::{Copied, Release};

/// Tries before the end of a base image that can't be published: one less than makes a dead letter, so that its run
/// ends. A function's build is left to whoever replays the dead letter.
const TRIES: u64 = topology::MAX_DELIVERIES - 1;

/// The handler of `scan.done`.
#[derive(Debug)]
pub struct Publish {
    pub pool: PgPool,
    pub staging: Registry,
    pub primary: Registry,
    /// Gets base images too.
    pub fallback: Option<Registry>,
}

/// What came of looking at the record.
enum Check {
    Publish(Box<Build>, Release),
    /// The build is not waiting to be published: it moved on, or was never ours.
    Nothing,
    Refuse(Failure),
}

impl Handler<ScanDone> for Publish {
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
        let build: BuildId = parse(event.build_id.parse())?;
        let digest: Digest = parse(event.digest.parse())?;
        let staging: ImageRef = parse(event.image.parse())?;

        match self.check(build, &event, digest).await? {
            Check::Nothing => Ok(Outcome::nothing()),
            Check::Refuse(failure) => Ok(refused(build, &event, failure)),
            Check::Publish(record, release) => {
                let began = Instant::now();
                let from = Source {
                    registry: self.staging.clone(),
                    repository: staging.repository,
                    digest,
                };
                match self.release(build, &release, &from).await {
                    Ok(copied) => {
                        let image = release.reference(&self.primary).with_digest(digest);
                        Ok(published(build, &event, &image, &record, copied, began))
                    }
                    Err(Trouble::Store(error)) => Err(error.into()),
                    Err(Trouble::Registry(error))
                        if error.is_transient() && !is_last_try(&record, delivery) =>
                    {
                        Err(HandlerError::transient(error))
                    }
                    Err(Trouble::Registry(error)) => Ok(refused(build, &event, explain(&error))),
                }
            }
        }
    }
}

fn is_last_try(record: &Build, delivery: &Delivery) -> bool {
    record.base.is_some() && delivery.count >= TRIES
}

/// Why a release isn't out.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] mecapy_store::Error),
    #[error(transparent)]
    Registry(#[from] mecapy_registry::Error),
}

impl Publish {
    /// Copies the image, then moves the tag that leads to the newest, unless it leads to a newer one: two versions
    /// may be published at once, and the older be done last.
    async fn release(
        &self,
        id: BuildId,
        release: &Release,
        from: &Source,
    ) -> Result<Copied, Trouble> {
        let copied = release.copy(from, &self.primary, self.fallback.as_ref()).await?;
        let _turn = Turn::at(&self.pool, &release.moving()).await?;
        for registry in &copied.registries {
            let newer = match release.leads_to(registry).await? {
                Some(there) => builds::is_of_a_newer(&self.pool, &there.to_string(), id).await?,
                None => false,
            };
            if !newer {
                release.lead(registry, from).await?;
            }
        }
        Ok(copied)
    }

    /// The database decides, not the event: anybody may publish an event.
    async fn check(
        &self,
        id: BuildId,
        event: &ScanDone,
        digest: Digest,
    ) -> Result<Check, HandlerError> {
        let Some(build) = builds::get(&self.pool, id).await? else {
            return Err(HandlerError::permanent(format!("build {id} is not known")));
        };
        if build.state.is_final() {
            return Ok(Check::Nothing);
        }
        if build.state != BuildState::Publishing {
            // An event ahead of the record must not be remembered in the place of the one that follows it.
            return Err(HandlerError::transient(format!("build {id} is {} yet", build.state)));
        }
        // The name that it is published under comes from the record: an event could name another's.
        let (is_the_builds, release) = match (build.function_id()?, &build.base) {
            (Some(function), _) => {
                let Some(record) = functions::get(&self.pool, function).await? else {
                    let deleted = failure(ErrorCode::UnknownFunction, "the function was deleted");
                    return Ok(Check::Refuse(deleted));
                };
                let is_the_builds = (event.function_id, event.owner.as_str(), event.base.as_str())
                    == (function.get(), record.owner.as_str(), "")
                    && i64::from(event.version) == i64::from(build.version);
                (is_the_builds, Release::function(&record.owner, function, &event.tag))
            }
            (None, Some(base)) => (
                (event.function_id, event.base.as_str()) == (0, base.as_str()),
                Release::base(base, &event.tag),
            ),
            (None, None) => {
                return Err(HandlerError::permanent(format!("build {id} is of nothing")));
            }
        };
        if !is_the_builds || event.verdict != i32::from(Verdict::Passed) {
            return Err(HandlerError::permanent(format!(
                "scan.done does not say of build {id} what the record does"
            )));
        }
        let digest = digest.to_string();
        if build.digest.as_deref() != Some(digest.as_str())
            || build.tag.as_deref() != Some(event.tag.as_str())
        {
            return Err(HandlerError::permanent(format!(
                "scan.done is not about the image that build {id} left"
            )));
        }
        let passed = scans::get(&self.pool, id)
            .await?
            .is_some_and(|scan| scan.verdict == "PASSED" && scan.digest == digest);
        if !passed {
            return Ok(Check::Refuse(failure(
                ErrorCode::NotScanned,
                format!("{digest} has no PASSED scan on record, so it is not published"),
            )));
        }
        Ok(Check::Publish(Box::new(build), release))
    }
}

fn published(
    id: BuildId,
    event: &ScanDone,
    image: &ImageRef,
    record: &Build,
    copied: Copied,
    began: Instant,
) -> Outcome {
    let Copied { report, registries } = copied;
    metrics::bytes("sent").increment(report.bytes_sent);
    metrics::bytes("mounted").increment(report.bytes_mounted);
    metrics::bytes("skipped").increment(report.bytes_skipped);
    let done = PushDone {
        base: event.base.clone(),
        build_id: event.build_id.clone(),
        function_id: event.function_id,
        owner: event.owner.clone(),
        version: event.version,
        image: image.to_string(),
        digest: event.digest.clone(),
        registries: registries.iter().map(|registry| registry.host().to_owned()).collect(),
        bytes_sent: report.bytes_sent,
        bytes_mounted: report.bytes_mounted,
        size_bytes: record.size_bytes.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    tracing::info!(
        build.id = %id,
        image = done.image,
        bytes_sent = report.bytes_sent,
        duration_ms = done.duration_ms,
        "published"
    );
    Outcome::commit(move |conn| {
        Box::pin(async move {
            let moved = builds::published(conn, id, &done.image).await?;
            Ok(if moved { Outgoing::event(&done) } else { Outgoing::none() })
        })
    })
}

fn parse<T, E: std::fmt::Display>(parsed: Result<T, E>) -> Result<T, HandlerError> {
    parsed.map_err(|error| HandlerError::permanent(error.to_string()))
}

/// What a registry refuses for good, in the words of the build's owner.
fn explain(error: &mecapy_registry::Error) -> Failure {
    let (code, what) = if error.is_unauthorized() {
        (
            ErrorCode::RegistryUnauthorized,
            "the registry refused our credentials; operators were alerted",
        )
    } else if error.is_digest_mismatch() {
        (
            ErrorCode::DigestMismatch,
            "the image changed between the scan and here, so it was not published",
        )
    } else {
        (ErrorCode::PushFailed, "the image could not be published")
    };
    tracing::error!(
        error = mecapy_service::chain(error),
        code = code.as_str(),
        "publishing was refused"
    );
    metrics::failures(code.as_str()).increment(1);
    failure(code, what)
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
