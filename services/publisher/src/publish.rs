//! Publishes one scanned image.

use std::time::Instant;

use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing};
use mecapy_proto::v1::{Failure, PushDone, PushFailed, ScanDone, Verdict};
use mecapy_proto::{BuildId, ErrorCode, FunctionId, failure};
use mecapy_registry::{
    CopyReport, Destination, Digest, ImageRef, ProgressSink, Registry, Source, copy_image,
};
use mecapy_store::builds::Build;
use mecapy_store::{BuildState, PgPool, StoredFailure, builds, functions, scans};

use crate::metric_definitions as metrics;

/// The handler of `scan.done`.
#[derive(Debug)]
pub struct Publish {
    pub pool: PgPool,
    pub staging: Registry,
    pub primary: Registry,
}

/// What came of looking at the record.
enum Check {
    Publish(Box<Build>),
    /// The build is not waiting to be published: it moved on, or was never ours.
    Nothing,
    Refuse(Failure),
}

impl Handler<ScanDone> for Publish {
    async fn handle(&self, event: ScanDone, _: &Delivery) -> Result<Outcome, HandlerError> {
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
            Check::Publish(record) => {
                let began = Instant::now();
                let image = ImageRef::new(self.primary.host(), published_repository(&event))
                    .with_tag(event.tag.clone())
                    .with_digest(digest);
                let tags = self.tags(&event).await?;
                match self.copy(&staging, digest, &image, tags).await {
                    Ok(report) => Ok(published(build, &event, &image, &record, report, began)),
                    Err(error) if error.is_transient() => Err(HandlerError::transient(error)),
                    Err(error) => Ok(refused(build, &event, explain(&error))),
                }
            }
        }
    }
}

impl Publish {
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
        let function = build.function_id()?;
        let Some(owner) =
            functions::get(&self.pool, function).await?.map(|function| function.owner)
        else {
            return Ok(Check::Refuse(failure(
                ErrorCode::UnknownFunction,
                "the function was deleted",
            )));
        };
        // The name that it is published under comes from the record: an event could name another's function.
        let is_the_builds = (event.function_id, event.owner.as_str())
            == (function.get(), owner.as_str())
            && i64::from(event.version) == i64::from(build.version)
            && event.verdict == i32::from(Verdict::Passed);
        if !is_the_builds {
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
        Ok(Check::Publish(Box::new(build)))
    }

    /// The version's tag, then `latest`, unless a newer version is out already.
    async fn tags(&self, event: &ScanDone) -> Result<Vec<String>, HandlerError> {
        let function = parse(FunctionId::new(event.function_id))?;
        let mut tags = vec![event.tag.clone()];
        if !builds::newer_is_ready(&self.pool, function, event.version).await? {
            tags.push("latest".to_owned());
        }
        Ok(tags)
    }

    async fn copy(
        &self,
        staging: &ImageRef,
        digest: Digest,
        image: &ImageRef,
        tags: Vec<String>,
    ) -> Result<CopyReport, mecapy_registry::Error> {
        let from = Source {
            registry: self.staging.clone(),
            repository: staging.repository.clone(),
            digest,
        };
        let to = Destination {
            registry: self.primary.clone(),
            repository: image.repository.clone(),
            tags,
        };
        copy_image(&from, &to, &ProgressSink::none()).await
    }
}

fn published(
    id: BuildId,
    event: &ScanDone,
    image: &ImageRef,
    record: &Build,
    report: CopyReport,
    began: Instant,
) -> Outcome {
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
        registries: vec![image.registry.clone()],
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

fn published_repository(event: &ScanDone) -> String {
    format!("mecapy/functions/user-{}-func-{}", event.owner, event.function_id)
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
