//! Where each object lies.

use std::fmt;

use mecapy_proto::{BuildId, TaskId};

/// A key in the pipeline's bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A key that came with an event or from the database.
    pub fn given(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    pub fn source(id: BuildId) -> Self {
        Self(format!("sources/{id}.py"))
    }

    pub fn build_log(id: BuildId) -> Self {
        Self(format!("logs/build-{id}.log"))
    }

    pub fn lock(id: BuildId) -> Self {
        Self(format!("locks/{id}.txt"))
    }

    pub fn dockerfile(id: BuildId) -> Self {
        Self(format!("dockerfiles/{id}.Dockerfile"))
    }

    pub fn scan_report(id: BuildId) -> Self {
        Self(format!("scans/{id}/report.json"))
    }

    pub fn sbom(id: BuildId) -> Self {
        Self(format!("scans/{id}/sbom.cdx.json"))
    }

    pub fn sarif(id: BuildId) -> Self {
        Self(format!("scans/{id}/results.sarif"))
    }

    pub fn task_inputs(id: TaskId) -> Self {
        Self(format!("tasks/{id}/inputs.json"))
    }

    /// Under the attempt: one that comes late can't overwrite another's.
    pub fn task_result(id: TaskId, attempt: i32) -> Self {
        Self(format!("tasks/{id}/{attempt}/result.json"))
    }

    pub fn task_stdout(id: TaskId, attempt: i32) -> Self {
        Self(format!("tasks/{id}/{attempt}/stdout.log"))
    }

    pub fn task_stderr(id: TaskId, attempt: i32) -> Self {
        Self(format!("tasks/{id}/{attempt}/stderr.log"))
    }

    /// `name` is `report.json` or `report.txt`.
    pub fn mirror_report(run: &str, name: &str) -> Self {
        Self(format!("mirror/{run}/{name}"))
    }

    /// `name` is `report.json` or `report.txt`.
    pub fn cleanup_report(run: &str, name: &str) -> Self {
        Self(format!("cleanup/{run}/{name}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn content_type(&self) -> &'static str {
        match self.0.rsplit_once('.').map(|(_, extension)| extension) {
            Some("json") => "application/json",
            Some("sarif") => "application/sarif+json",
            _ => "text/plain; charset=utf-8",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
