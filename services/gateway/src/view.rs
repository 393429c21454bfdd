//! Functions, builds and tasks as callers see them.

pub(crate) mod webhooks;
pub(crate) mod workers;

use chrono::{DateTime, Utc};
use mecapy_proto::{BuildId, ErrorCode, TaskId, v1};
use mecapy_store::functions::Overview;
use mecapy_store::scans::Scan;
use mecapy_store::{BuildState, StoredFailure, TaskState, builds, tasks};
use serde::Serialize;
use serde_json::value::RawValue;

/// A function as one of its builds left it; without the build's id, the newest. What is not known yet is null.
#[derive(Debug, Clone, Serialize)]
pub struct Function {
    pub function_id: i64,
    pub name: String,
    pub owner: String,
    pub build_id: Option<BuildId>,
    pub version: Option<u32>,
    pub status: &'static str,
    /// With digest; null unless it is ready.
    pub docker_image: Option<String>,
    /// "245MB": compressed, as the registry has it.
    pub image_size: Option<String>,
    /// "42s"
    pub build_time: Option<String>,
    pub vulnerabilities: Option<Vulnerabilities>,
    pub error: Option<Failure>,
    pub created_at: DateTime<Utc>,
    #[serde(skip)]
    pub ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vulnerabilities {
    pub critical: u32,
    pub high: u32,
    pub warnings: Vec<String>,
    /// The advisory database was the built-in starter set.
    pub database_partial: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub log_tail: Vec<String>,
}

impl From<StoredFailure> for Failure {
    fn from(failure: StoredFailure) -> Self {
        Self { code: failure.code, message: failure.message, log_tail: failure.log }
    }
}

/// A task; `result` is there when it succeeded and is small, `/tasks/{id}/result` has it in any case.
#[derive(Debug, Clone, Serialize)]
pub struct Task {
    pub task_id: TaskId,
    pub function_id: i64,
    pub status: &'static str,
    pub attempt: i32,
    /// HIT, MISS, FAILOVER
    pub cache: Option<String>,
    pub timings: Option<Timings>,
    pub result: Option<Box<RawValue>>,
    pub error: Option<Failure>,
    pub exit_code: Option<i32>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    pub ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timings {
    pub queued_ms: u64,
    pub fetch_ms: u64,
    pub start_ms: u64,
    pub run_ms: u64,
    pub store_ms: u64,
}

impl Function {
    pub(crate) fn of(overview: Overview) -> Self {
        let Overview { function, build, scan } = overview;
        let ready = build.as_ref().filter(|build| build.state == BuildState::Ready);
        let error = build.as_ref().and_then(|build| failure(build, scan.as_ref()));
        Self {
            function_id: function.id,
            name: function.name,
            owner: function.owner,
            build_id: build.as_ref().map(builds::Build::id),
            version: build.as_ref().map(|build| build.version.unsigned_abs()),
            status: build.as_ref().map_or(BuildState::Queued, |build| build.state).as_str(),
            docker_image: ready.and_then(|build| build.docker_image.clone()),
            image_size: build
                .as_ref()
                .and_then(|build| build.size_bytes)
                .map(|bytes| size(bytes.unsigned_abs())),
            build_time: build
                .as_ref()
                .and_then(|build| build.build_duration_ms)
                .map(|ms| time(ms.unsigned_abs())),
            vulnerabilities: scan.as_ref().map(vulnerabilities),
            error,
            created_at: function.created_at,
            ended: build.as_ref().is_some_and(|build| build.state.is_final()),
        }
    }
}

impl Task {
    pub(crate) fn of(task: tasks::Task, result: Option<Box<RawValue>>) -> Self {
        let timings = task
            .timings
            .clone()
            .and_then(|value| serde_json::from_value::<v1::TaskTimings>(value).ok());
        Self {
            task_id: task.id(),
            function_id: task.function_id,
            status: task.state.as_str(),
            attempt: task.attempt,
            timings: timings.map(|timings| Timings {
                queued_ms: timings.queued_ms,
                fetch_ms: timings.fetch_ms,
                start_ms: timings.start_ms,
                run_ms: timings.run_ms,
                store_ms: timings.store_ms,
            }),
            result,
            error: task.failure().map(Failure::from),
            exit_code: task.exit_code,
            created_at: task.created_at,
            started_at: task.started_at,
            ended_at: task.ended_at,
            ended: task.state.is_final(),
            cache: task.cache,
        }
    }
}

/// Why a build did not become ready. A rejected one has its reason in the scan.
fn failure(build: &builds::Build, scan: Option<&Scan>) -> Option<Failure> {
    if build.state != BuildState::Rejected {
        return build.failure().map(Failure::from);
    }
    let critical = scan.map(findings).unwrap_or_default();
    let named: Vec<String> =
        critical.iter().filter(|finding| finding.severity == "CRITICAL").map(remedy).collect();
    let message = if named.is_empty() {
        "the image has a critical vulnerability and is not published".to_owned()
    } else {
        format!("the image has critical vulnerabilities and is not published: {}", named.join("; "))
    };
    Some(Failure { code: "rejected".to_owned(), message, log_tail: Vec::new() })
}

fn remedy(finding: &v1::Finding) -> String {
    let fix = match finding.fixed_version.as_str() {
        "" => "no fix is known".to_owned(),
        version => format!("fixed in {version}"),
    };
    format!("{} ({fix})", warning(finding))
}

fn vulnerabilities(scan: &Scan) -> Vulnerabilities {
    let warnings = findings(scan)
        .into_iter()
        .filter(|finding| matches!(finding.severity.as_str(), "CRITICAL" | "HIGH"))
        .map(|finding| warning(&finding));
    Vulnerabilities {
        critical: scan.critical.unsigned_abs(),
        high: scan.high.unsigned_abs(),
        warnings: warnings.collect(),
        database_partial: scan.database_partial,
    }
}

/// "numpy 1.24.0 has HIGH CVE-2023-1234"
fn warning(finding: &v1::Finding) -> String {
    format!(
        "{} {} has {} {}",
        finding.package, finding.installed_version, finding.severity, finding.id
    )
}

pub(crate) fn findings(scan: &Scan) -> Vec<v1::Finding> {
    serde_json::from_value(scan.findings.clone()).unwrap_or_else(|error| {
        tracing::warn!(%error, build.id = %scan.build_id, "the findings of a scan can't be read");
        Vec::new()
    })
}

/// Whole units up to the thousandth of the next, as `docker images` has them: "812kB", "245MB", "1.25GB".
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes}B"),
        1_000..1_000_000 => format!("{}kB", (bytes + 500) / 1_000),
        1_000_000..1_000_000_000 => format!("{}MB", (bytes + 500_000) / 1_000_000),
        _ => format!("{:.2}GB", bytes as f64 / 1e9),
    }
}

/// "0.8s", "42s"
pub(crate) fn time(ms: u64) -> String {
    if ms < 10_000 {
        format!("{:.1}s", ms as f64 / 1e3)
    } else {
        format!("{}s", (ms + 500) / 1_000)
    }
}

impl From<Function> for v1::Function {
    fn from(function: Function) -> Self {
        Self {
            function_id: function.function_id,
            name: function.name,
            owner: function.owner,
            build_id: function.build_id.map(|id| id.to_string()).unwrap_or_default(),
            version: function.version.unwrap_or_default(),
            status: function.status.to_owned(),
            docker_image: function.docker_image.unwrap_or_default(),
            image_size: function.image_size.unwrap_or_default(),
            build_time: function.build_time.unwrap_or_default(),
            vulnerabilities: function.vulnerabilities.map(|vulnerabilities| v1::Vulnerabilities {
                critical: vulnerabilities.critical,
                high: vulnerabilities.high,
                warnings: vulnerabilities.warnings,
                database_partial: vulnerabilities.database_partial,
            }),
            error: function.error.map(Into::into),
            created_at: Some(function.created_at.into()),
        }
    }
}

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code, message: failure.message, log_tail: failure.log_tail }
    }
}

impl From<Task> for v1::Task {
    fn from(task: Task) -> Self {
        Self {
            task_id: task.task_id.to_string(),
            function_id: task.function_id,
            status: task.status.to_owned(),
            attempt: task.attempt.unsigned_abs(),
            cache: task
                .cache
                .and_then(|name| v1::CacheOutcome::from_str_name(&name))
                .unwrap_or_default()
                .into(),
            timings: task.timings.map(|timings| v1::TaskTimings {
                queued_ms: timings.queued_ms,
                fetch_ms: timings.fetch_ms,
                start_ms: timings.start_ms,
                run_ms: timings.run_ms,
                store_ms: timings.store_ms,
            }),
            result_json: task.result.map(|value| value.get().to_owned()).unwrap_or_default(),
            error: task.error.map(Into::into),
            exit_code: task.exit_code,
        }
    }
}

/// What a task without a result says of it.
pub(crate) fn no_result(task: &tasks::Task) -> Failure {
    let message = match task.state {
        TaskState::Queued => "the task is queued: there is no result yet".to_owned(),
        TaskState::Running => "the task is running: there is no result yet".to_owned(),
        state => format!("the task ended as {state} and left no result"),
    };
    let stored = task.failure().map(Failure::from);
    match stored {
        Some(failure) if task.state.is_final() => failure,
        _ => {
            let code = if task.state == TaskState::Succeeded {
                ErrorCode::Internal.as_str()
            } else {
                "not-found"
            };
            Failure { code: code.to_owned(), message, log_tail: Vec::new() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_as_in_the_contract() {
        assert_eq!(size(245_000_000), "245MB");
        assert_eq!(
            (size(0), size(812_345), size(1_250_000_000)),
            ("0B".into(), "812kB".into(), "1.25GB".into())
        );
        assert_eq!(
            (time(42_300), time(800), time(9_940)),
            ("42s".into(), "0.8s".into(), "9.9s".into())
        );
    }

    #[test]
    fn a_finding_reads_as_in_the_contract() {
        let finding = v1::Finding {
            id: "CVE-2023-1234".into(),
            package: "numpy".into(),
            installed_version: "1.24.0".into(),
            severity: "HIGH".into(),
            fixed_version: "1.25.0".into(),
            ..Default::default()
        };
        assert_eq!(warning(&finding), "numpy 1.24.0 has HIGH CVE-2023-1234");
        assert_eq!(remedy(&finding), "numpy 1.24.0 has HIGH CVE-2023-1234 (fixed in 1.25.0)");
    }
}
