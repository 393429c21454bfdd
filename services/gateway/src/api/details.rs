//! All that is known of a function, a build, a task.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use mecapy_objects::Key;
use mecapy_proto::{BuildId, FunctionId, TaskId, v1};
use mecapy_store::functions::{Overview, Version};
use mecapy_store::{builds, console, functions, tasks};

use super::{Api, LogStream};
use crate::{Caller, Error, view, waterfall};

/// A page must come although S3 is slow.
const PATIENCE: Duration = Duration::from_secs(2);
/// Results are shown up to this size; the rest is a download.
const SHOWN_RESULT: u64 = 64 * 1024;
/// What a scan or a build leaves: far above what they write.
const MAX_TEXT_BYTES: u64 = 64 * 1024 * 1024;
const USAGE_DAYS: i32 = 30;

#[derive(Debug)]
pub(crate) struct FunctionDetails {
    pub overview: Overview,
    /// Of the current image, where a newer database has something against it.
    pub revoked: Option<mecapy_store::scans::Scan>,
    /// A row a day on which it ran, of the last 30.
    pub usage: Vec<(NaiveDate, i64)>,
}

#[derive(Debug)]
pub(crate) struct BuildDetails {
    pub overview: Overview,
    pub build: builds::Build,
    pub version: Option<Version>,
    pub findings: Vec<v1::Finding>,
    /// How it went to the fallback last, and when.
    pub on_fallback: Option<(String, DateTime<Utc>)>,
    pub waterfall: waterfall::Waterfall,
}

#[derive(Debug)]
pub(crate) struct TaskDetails {
    pub function: functions::Function,
    pub task: tasks::Task,
    pub waterfall: waterfall::Waterfall,
    /// None: there is none yet, or S3 does not answer.
    pub log: Option<Bytes>,
    /// The same; or it is too large to be shown.
    pub result: Option<Bytes>,
}

/// A text that a build has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuildText {
    Log,
    Dockerfile,
    Lock,
    Report,
    Sbom,
    Sarif,
}

impl BuildText {
    pub(crate) const ALL: &[Self] =
        &[Self::Log, Self::Dockerfile, Self::Lock, Self::Report, Self::Sbom, Self::Sarif];

    /// In the address.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Dockerfile => "dockerfile",
            Self::Lock => "lock",
            Self::Report => "report",
            Self::Sbom => "sbom",
            Self::Sarif => "sarif",
        }
    }
}

impl Api {
    pub(crate) async fn function_details(
        &self,
        caller: &Caller,
        id: FunctionId,
    ) -> Result<FunctionDetails, Error> {
        let function = self.visible(caller, id).await?;
        let (overview, usage) = tokio::try_join!(
            functions::overview(&self.0.pool, id),
            console::functions::usage(&self.0.pool, id, USAGE_DAYS),
        )?;
        let overview = overview.ok_or_else(|| Error::UnknownFunction(id.to_string()))?;
        let current = match function.current_build {
            Some(build) => {
                mecapy_store::scans::get(&self.0.pool, BuildId::from_uuid(build)).await?
            }
            None => None,
        };
        let revoked = current.filter(|scan| scan.revoked_at.is_some());
        Ok(FunctionDetails { overview, revoked, usage })
    }

    pub(crate) async fn build_details(
        &self,
        caller: &Caller,
        id: BuildId,
    ) -> Result<BuildDetails, Error> {
        let overview = self.visible_build(caller, id).await?;
        let not_found = || Error::NotFound(format!("build {id}"));
        let build = overview.build.clone().ok_or_else(not_found)?;
        let function =
            FunctionId::new(overview.function.id).map_err(|error| Error::Internal(error.into()))?;
        let version = build.version.unsigned_abs();
        let on_fallback = async {
            match &build.digest {
                Some(digest) => console::builds::on_fallback(&self.0.pool, digest).await,
                None => Ok(None),
            }
        };
        let (version, on_fallback) =
            tokio::try_join!(functions::version(&self.0.pool, function, version), on_fallback,)?;
        let waterfall = self.build_trace(caller, id).await?;
        let findings = overview.scan.as_ref().map(view::findings).unwrap_or_default();
        Ok(BuildDetails { overview, build, version, findings, on_fallback, waterfall })
    }

    /// None: it is not there (yet).
    pub(crate) async fn build_text(
        &self,
        caller: &Caller,
        id: BuildId,
        text: BuildText,
    ) -> Result<Option<Bytes>, Error> {
        let overview = self.visible_build(caller, id).await?;
        let scan = overview.scan.as_ref();
        let build = overview.build.as_ref();
        let key = match text {
            BuildText::Log => build.and_then(|build| build.log_key.clone()).map(Key::given),
            BuildText::Lock => build.and_then(|build| build.lock_key.clone()).map(Key::given),
            BuildText::Report => scan.map(|scan| Key::given(&scan.report_key)),
            BuildText::Sbom => scan.map(|scan| Key::given(&scan.sbom_key)),
            BuildText::Sarif => scan.map(|_| Key::sarif(id)),
            BuildText::Dockerfile => None,
        };
        let key = key.unwrap_or_else(|| match text {
            BuildText::Log => Key::build_log(id),
            BuildText::Lock => Key::lock(id),
            BuildText::Report => Key::scan_report(id),
            BuildText::Sbom => Key::sbom(id),
            BuildText::Sarif => Key::sarif(id),
            BuildText::Dockerfile => Key::dockerfile(id),
        });
        Ok(self.0.objects.get(&key, MAX_TEXT_BYTES).await?)
    }

    /// The same, for a page that comes without it where S3 is away or slow.
    pub(crate) async fn build_text_if_there(
        &self,
        caller: &Caller,
        id: BuildId,
        text: BuildText,
    ) -> Option<Bytes> {
        soon(self.build_text(caller, id, text)).await.flatten()
    }

    pub(crate) async fn task_details(
        &self,
        caller: &Caller,
        id: TaskId,
    ) -> Result<TaskDetails, Error> {
        let task = self.visible_task(caller, id).await?;
        let function =
            FunctionId::new(task.function_id).map_err(|error| Error::Internal(error.into()))?;
        let function = self.visible(caller, function).await?;
        let waterfall = self.task_trace(caller, id).await?;
        if !task.state.is_final() {
            return Ok(TaskDetails { function, task, waterfall, log: None, result: None });
        }
        let log = soon(self.task_log(caller, id, LogStream::Both));
        let result = soon(self.stored_result(&task, SHOWN_RESULT));
        let (log, result) = tokio::join!(log, result);
        Ok(TaskDetails { function, task, waterfall, log, result: result.flatten() })
    }
}

/// What comes within the time that a page has for it.
async fn soon<T>(wanted: impl Future<Output = Result<T, Error>>) -> Option<T> {
    match tokio::time::timeout(PATIENCE, wanted).await {
        Ok(Ok(found)) => Some(found),
        Ok(Err(Error::NotFound(_))) => None,
        Ok(Err(error)) => {
            error.log();
            None
        }
        Err(_) => {
            tracing::warn!("S3 is slow: a page comes without what is there");
            None
        }
    }
}
