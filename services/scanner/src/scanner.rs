//! Scans one built image.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chrono::Utc;
use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing, topology};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::{self, BuildDone, BuildFailed, Failure, ScanDone};
use mecapy_proto::{BuildId, ErrorCode, failure};
use mecapy_registry::{Digest, ImageRef, Registry};
use mecapy_service::{chain, step};
use mecapy_store::scans::NewScan;
use mecapy_store::{BuildState, PgPool, StoredFailure, builds, scans};

use crate::code_scanning::CodeScanning;
use crate::engine::{Engine, Target};
use crate::finding::Finding;
use crate::policy::Policies;
use crate::report::Report;
use crate::severity::Severity;
use crate::verdict::{Counts, Decision, Verdict, decide};
use crate::{Error, metric_definitions as metrics};

/// Findings that travel with the event; all are in the report.
const FINDINGS_IN_EVENT: usize = 20;
/// Tries before a scan that could go better later has failed: one less than makes a dead letter, so that the
/// build ends.
const TRIES: u64 = topology::MAX_DELIVERIES - 1;

/// The handler of `build.done`.
pub struct Scanner {
    pub engine: Arc<dyn Engine>,
    pub policies: Policies,
    /// Where findings of base images are shown. None: nowhere.
    pub code_scanning: Option<CodeScanning>,
    pub staging: Registry,
    pub objects: Objects,
    pub pool: PgPool,
}

impl Handler<BuildDone> for Scanner {
    const STAGE: Option<&'static str> = Some("scan");

    async fn handle(&self, event: BuildDone, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let build: BuildId = parse(event.build_id.parse())?;
        let image: ImageRef = parse(event.image.parse())?;
        let digest: Digest = parse(event.digest.parse())?;
        if !self.is_waiting(build, digest).await? {
            return Ok(Outcome::nothing());
        }
        let began = Instant::now();
        match step("scan image", self.scan(&image, digest)).await {
            Ok(report) => {
                metrics::scanned(began.elapsed());
                let sarif = report.to_sarif(&category(&event)).map_err(HandlerError::transient)?;
                let sarif = Bytes::from(sarif);
                step("keep reports", self.keep(build, &report, sarif.clone())).await?;
                if !event.base.is_empty() {
                    self.show(build, sarif);
                }
                Ok(scanned(build, &event, &report, began))
            }
            Err(error) if error.is_transient() && delivery.count < TRIES => {
                Err(HandlerError::transient(error))
            }
            Err(error) => Ok(failed(build, &event, &error)),
        }
    }
}

impl Scanner {
    /// The database decides, not the event: anybody may publish an event.
    async fn is_waiting(&self, id: BuildId, digest: Digest) -> Result<bool, HandlerError> {
        let Some(build) = builds::get(&self.pool, id).await? else {
            return Err(HandlerError::permanent(format!("build {id} is not known")));
        };
        match build.state {
            BuildState::Scanning => {}
            // An event ahead of the record must not be remembered in the place of the one that follows it.
            BuildState::Queued | BuildState::Building => {
                return Err(HandlerError::transient(format!("build {id} is {} yet", build.state)));
            }
            _ => return Ok(false),
        }
        if build.digest.as_deref() != Some(digest.to_string().as_str()) {
            return Err(HandlerError::permanent(format!(
                "build.done is not about the image that build {id} left"
            )));
        }
        Ok(true)
    }

    async fn scan(&self, image: &ImageRef, digest: Digest) -> Result<Report, Error> {
        let target = Target { registry: &self.staging, repository: &image.repository, digest };
        let scan = self.engine.scan(target).await?;
        let now = Utc::now();
        let decision = decide(&scan.findings, &self.policies.current(), now);
        Ok(Report::new(scan, decision, now))
    }

    /// Written before the verdict is: who learns of a scan finds its reports.
    async fn keep(
        &self,
        build: BuildId,
        report: &Report,
        sarif: Bytes,
    ) -> Result<(), HandlerError> {
        let json =
            |bytes: Result<Vec<u8>, Error>| bytes.map(Bytes::from).map_err(HandlerError::transient);
        let (report_key, sbom_key, sarif_key) =
            (Key::scan_report(build), Key::sbom(build), Key::sarif(build));
        tokio::try_join!(
            self.objects.put(&report_key, json(report.to_json())?),
            self.objects.put(&sbom_key, json(report.to_cyclonedx())?),
            self.objects.put(&sarif_key, sarif),
        )
        .map_err(HandlerError::transient)?;
        Ok(())
    }

    /// Beside the scan, which doesn't wait for it.
    fn show(&self, build: BuildId, sarif: Bytes) {
        let Some(code_scanning) = self.code_scanning.clone() else { return };
        tokio::spawn(async move {
            match code_scanning.upload(&sarif).await {
                Ok(id) => {
                    metrics::uploads("uploaded").increment(1);
                    tracing::info!(build.id = %build, upload = id, "code scanning has the findings");
                }
                Err(error) => {
                    metrics::uploads("failed").increment(1);
                    tracing::warn!(build.id = %build, error = chain(&error), "code scanning has not the findings");
                }
            }
        });
    }
}

/// What is scanned again and again: a base image, or a function.
fn category(event: &BuildDone) -> String {
    match event.base.as_str() {
        "" => format!("function-{}/", event.function_id),
        base => format!("base/{base}/"),
    }
}

fn parse<T, E: std::fmt::Display>(parsed: Result<T, E>) -> Result<T, HandlerError> {
    parsed.map_err(|error| HandlerError::permanent(error.to_string()))
}

fn scanned(id: BuildId, event: &BuildDone, report: &Report, began: Instant) -> Outcome {
    let (scan, decision) = (&report.scan, &report.decision);
    let passed = decision.verdict == Verdict::Passed;
    let counts = decision.counts;
    metrics::scans(if passed { "passed" } else { "rejected" }).increment(1);
    for severity in Severity::ALL {
        metrics::findings(severity).increment(counts.of(severity).into());
    }
    let findings = events(&scan.findings, decision);
    let done = ScanDone {
        base: event.base.clone(),
        build_id: event.build_id.clone(),
        function_id: event.function_id,
        owner: event.owner.clone(),
        version: event.version,
        image: event.image.clone(),
        digest: event.digest.clone(),
        tag: event.tag.clone(),
        engine: scan.engine.name.clone(),
        engine_version: scan.engine.version.clone(),
        database_version: scan.database.version.clone(),
        database_partial: scan.database.partial,
        verdict: if passed { v1::Verdict::Passed } else { v1::Verdict::Rejected }.into(),
        counts: Some(counts.into()),
        report_key: Key::scan_report(id).to_string(),
        sbom_key: Key::sbom(id).to_string(),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        findings,
    };
    tracing::info!(
        build.id = %id,
        image.digest = done.digest,
        passed,
        critical = counts.critical,
        high = counts.high,
        unknown = counts.unknown,
        packages = scan.contents.packages.len(),
        database.partial = done.database_partial,
        duration_ms = done.duration_ms,
        "scanned"
    );
    let layers: Vec<String> = scan.layers.iter().map(ToString::to_string).collect();
    Outcome::commit(move |conn| {
        Box::pin(async move {
            if !builds::scanned(conn, id, &done.digest, passed).await? {
                return Ok(Outgoing::none());
            }
            scans::insert(conn, id, &row(&done, passed)).await?;
            scans::set_layers(conn, id, &layers).await?;
            Ok(Outgoing::event(&done))
        })
    })
}

fn row(done: &ScanDone, passed: bool) -> NewScan {
    let counts = done.counts.unwrap_or_default();
    NewScan {
        digest: done.digest.clone(),
        engine: done.engine.clone(),
        engine_version: done.engine_version.clone(),
        database_version: done.database_version.clone(),
        database_partial: done.database_partial,
        passed,
        critical: counts.critical,
        high: counts.high,
        medium: counts.medium,
        low: counts.low,
        unknown: counts.unknown,
        findings: serde_json::to_value(&done.findings).unwrap_or_default(),
        report_key: done.report_key.clone(),
        sbom_key: done.sbom_key.clone(),
        duration_ms: done.duration_ms,
    }
}

/// The worst of those that count, as they travel.
pub(crate) fn events(findings: &[Finding], decision: &Decision) -> Vec<v1::Finding> {
    decision.counting(findings).take(FINDINGS_IN_EVENT).map(to_event).collect()
}

impl From<Counts> for v1::SeverityCounts {
    fn from(counts: Counts) -> Self {
        Self {
            critical: counts.critical,
            high: counts.high,
            medium: counts.medium,
            low: counts.low,
            unknown: counts.unknown,
        }
    }
}

fn to_event(finding: &Finding) -> v1::Finding {
    v1::Finding {
        id: finding.id.clone(),
        package: finding.package.clone(),
        installed_version: finding.installed.clone(),
        // Of a CRITICAL: the version that leaves all of them behind.
        fixed_version: finding.upgrade_to.clone().unwrap_or_default(),
        severity: finding.rating.severity.to_string(),
        summary: finding.summary.clone(),
    }
}

/// The build ends without a verdict: it isn't published.
fn failed(id: BuildId, event: &BuildDone, error: &Error) -> Outcome {
    let failure = explain(error);
    tracing::error!(build.id = %id, error = chain(error), code = failure.code, "the image could not be scanned");
    metrics::scans("failed").increment(1);
    let failed = BuildFailed {
        base: event.base.clone(),
        build_id: event.build_id.clone(),
        function_id: event.function_id,
        failure: Some(failure.clone()),
        log_key: event.log_key.clone(),
        duration_ms: event.duration_ms,
    };
    Outcome::commit(move |conn| {
        Box::pin(async move {
            let moved = builds::fail(conn, id, &StoredFailure::from(failure), None).await?;
            Ok(if moved { Outgoing::event(&failed) } else { Outgoing::none() })
        })
    })
}

/// In the words of the build's owner.
fn explain(error: &Error) -> Failure {
    let cause = match error {
        Error::Layer { source, .. } => source,
        error => error,
    };
    let (code, what) = match cause {
        Error::Registry(registry) if registry.is_unauthorized() => (
            ErrorCode::RegistryUnauthorized,
            "the registry refused our credentials; operators were alerted".to_owned(),
        ),
        Error::Registry(registry) if registry.is_digest_mismatch() => (
            ErrorCode::DigestMismatch,
            "the image changed after it was built, so it was not scanned".to_owned(),
        ),
        _ => (
            ErrorCode::ScanFailed,
            format!("the image could not be scanned, so it is not published: {}", chain(error)),
        ),
    };
    failure(code, what)
}
