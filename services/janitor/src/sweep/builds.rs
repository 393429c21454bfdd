//! Builds that stand still: the event that moves them on is sent again.

use chrono::{DateTime, TimeDelta, Utc};
use mecapy_bus::topology::{self, Durable};
use mecapy_bus::{Outgoing, waiting};
use mecapy_proto::v1::{
    BaseBuild, BuildDone, BuildFailed, BuildRequested, Failure, Finding, ScanDone, SeverityCounts,
    Verdict,
};
use mecapy_proto::{ErrorCode, failure};
use mecapy_store::builds::{self, Build};
use mecapy_store::scans::{self, Scan};
use mecapy_store::stalled::{self, StalledBuild};
use mecapy_store::{BuildState, StoredFailure};

use super::queues::Queues;
use super::{Error, Report, Sweeps};

const AT_ONCE: u32 = 1000;
/// A row may be made by the builder, from a message that came before it.
const REQUEST_BEFORE: TimeDelta = TimeDelta::hours(1);
const REQUEST_AFTER: TimeDelta = TimeDelta::hours(1);

pub(super) async fn sweep(
    sweeps: &Sweeps,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), Error> {
    let grace = sweeps.options.stalled_after();
    let mut queues = Queues::new(&sweeps.bus, grace);
    for stalled in stalled::builds(&sweeps.pool, grace, AT_ONCE).await? {
        let Some(durable) = awaited(&stalled.build) else { continue };
        if !queues.is_lost(durable, stalled.since).await? {
            continue;
        }
        if stalled.resent >= sweeps.options.max_resends {
            let failure = failure(
                ErrorCode::BuildLost,
                format!(
                    "it stood still in {} and was started again {} times, without getting on: submit it again",
                    stalled.build.state, stalled.resent
                ),
            );
            end(sweeps, &stalled, failure, report).await?;
            continue;
        }
        match event(sweeps, &stalled, now).await? {
            Some(outgoing) => resend(sweeps, &stalled, outgoing, report).await?,
            None => {
                let failure = failure(
                    ErrorCode::SourceMissing,
                    "its code is nowhere to be found any more: submit it again",
                );
                end(sweeps, &stalled, failure, report).await?;
            }
        }
    }
    Ok(())
}

/// Whose turn it is.
fn awaited(build: &Build) -> Option<Durable> {
    match build.state {
        BuildState::Queued | BuildState::Building if build.base.is_some() => {
            Some(topology::BASE_BUILDER)
        }
        BuildState::Queued | BuildState::Building => Some(topology::BUILDER),
        BuildState::Scanning => Some(topology::SCANNER),
        BuildState::Publishing => Some(topology::PUBLISHER),
        BuildState::Ready | BuildState::Failed | BuildState::Rejected => None,
    }
}

/// The event that moves it on. None: the request is gone.
async fn event(
    sweeps: &Sweeps,
    stalled: &StalledBuild,
    now: DateTime<Utc>,
) -> Result<Option<Outgoing>, Error> {
    let build = &stalled.build;
    Ok(match build.state {
        BuildState::Queued | BuildState::Building => match base_build(build) {
            Some(event) => Some(Outgoing::again(&event, now)),
            None => request(sweeps, stalled).await?.map(|event| Outgoing::again(&event, now)),
        },
        BuildState::Scanning => Some(Outgoing::again(&build_done(stalled)?, now)),
        BuildState::Publishing => match scans::get(&sweeps.pool, build.id()).await? {
            Some(scan) => Some(Outgoing::again(&scan_done(stalled, &scan)?, now)),
            None => None,
        },
        BuildState::Ready | BuildState::Failed | BuildState::Rejected => None,
    })
}

async fn request(sweeps: &Sweeps, stalled: &StalledBuild) -> Result<Option<BuildRequested>, Error> {
    if let Some(request) = &stalled.request {
        return Ok(Some(request.clone()));
    }
    // A producer's own, which the gateway did not keep: the stream may have it still.
    let at = stalled.build.requested_at;
    let id = stalled.build.id().to_string();
    Ok(waiting::find(&sweeps.bus, topology::PIPELINE, &id, at - REQUEST_BEFORE, at + REQUEST_AFTER)
        .await?)
}

async fn resend(
    sweeps: &Sweeps,
    stalled: &StalledBuild,
    outgoing: Outgoing,
    report: &mut Report,
) -> Result<(), Error> {
    let mut transaction = sweeps.pool.begin().await.map_err(mecapy_store::Error::from)?;
    if !stalled::resend_build(&mut transaction, stalled).await? {
        return Ok(());
    }
    let outgoing = outgoing.in_trace(stalled.traceparent.clone());
    let written = sweeps.outbox.write(&mut transaction, outgoing).await?;
    transaction.commit().await.map_err(mecapy_store::Error::from)?;
    sweeps.outbox.send(written).await;
    tracing::warn!(
        build.id = %stalled.build.id(),
        state = %stalled.build.state,
        since = %stalled.since,
        resent = stalled.resent + 1,
        "a build stood still and is sent on again"
    );
    report.count("builds_resent", 1);
    Ok(())
}

async fn end(
    sweeps: &Sweeps,
    stalled: &StalledBuild,
    failure: Failure,
    report: &mut Report,
) -> Result<(), Error> {
    let build = &stalled.build;
    let event = BuildFailed {
        base: build.base.clone().unwrap_or_default(),
        build_id: build.id().to_string(),
        function_id: function(build)?,
        failure: Some(failure.clone()),
        log_key: build.log_key.clone().unwrap_or_default(),
        duration_ms: unsigned(build.build_duration_ms),
    };
    tracing::error!(build.id = %build.id(), state = %build.state, code = failure.code, "a build that stood still is ended");
    let mut transaction = sweeps.pool.begin().await.map_err(mecapy_store::Error::from)?;
    let stored = StoredFailure::from(failure);
    if !builds::fail(&mut transaction, build.id(), &stored, None).await? {
        return Ok(());
    }
    let outgoing = Outgoing::event(&event).in_trace(stalled.traceparent.clone());
    let written = sweeps.outbox.write(&mut transaction, outgoing).await?;
    transaction.commit().await.map_err(mecapy_store::Error::from)?;
    sweeps.outbox.send(written).await;
    report.count("builds_failed", 1);
    Ok(())
}

/// Of a base image all is in its row: "3.11-slim".
fn base_build(build: &Build) -> Option<BaseBuild> {
    let (python_version, variant) = build.base.as_deref()?.split_once('-')?;
    Some(BaseBuild {
        run_id: build.base_run.clone()?,
        build_id: build.id().to_string(),
        python_version: python_version.to_owned(),
        variant: variant.to_owned(),
    })
}

fn build_done(stalled: &StalledBuild) -> Result<BuildDone, Error> {
    let build = &stalled.build;
    Ok(BuildDone {
        build_id: build.id().to_string(),
        function_id: function(build)?,
        owner: stalled.owner.clone(),
        version: build.version.unsigned_abs(),
        image: build.staging_image.clone().unwrap_or_default(),
        digest: build.digest.clone().unwrap_or_default(),
        tag: build.tag.clone().unwrap_or_default(),
        size_bytes: unsigned(build.size_bytes),
        lock_key: build.lock_key.clone().unwrap_or_default(),
        log_key: build.log_key.clone().unwrap_or_default(),
        duration_ms: unsigned(build.build_duration_ms),
        dependency_image: build.dependency_image.clone().unwrap_or_default(),
        base: build.base.clone().unwrap_or_default(),
    })
}

fn scan_done(stalled: &StalledBuild, scan: &Scan) -> Result<ScanDone, Error> {
    let done = build_done(stalled)?;
    let passed = scan.verdict == "PASSED";
    Ok(ScanDone {
        build_id: done.build_id,
        function_id: done.function_id,
        owner: done.owner,
        version: done.version,
        image: done.image,
        digest: scan.digest.clone(),
        tag: done.tag,
        engine: scan.engine.clone(),
        engine_version: scan.engine_version.clone(),
        database_version: scan.database_version.clone(),
        database_partial: scan.database_partial,
        verdict: if passed { Verdict::Passed } else { Verdict::Rejected }.into(),
        counts: Some(SeverityCounts {
            critical: scan.critical.unsigned_abs(),
            high: scan.high.unsigned_abs(),
            medium: scan.medium.unsigned_abs(),
            low: scan.low.unsigned_abs(),
            unknown: scan.unknown.unsigned_abs(),
        }),
        // For onlookers alone: the publisher asks the record.
        findings: serde_json::from_value::<Vec<Finding>>(scan.findings.clone()).unwrap_or_default(),
        report_key: scan.report_key.clone(),
        sbom_key: scan.sbom_key.clone(),
        duration_ms: unsigned(Some(scan.duration_ms)),
        base: done.base,
    })
}

/// 0 for a base image, as in the events.
fn function(build: &Build) -> Result<i64, Error> {
    Ok(build.function_id()?.map_or(0, |function| function.get()))
}

fn unsigned(value: Option<i64>) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or_default()
}
