//! The other engine: the real trivy, as a program, alone or as a client of `trivy server`.
//!
//! Its findings exit 10, its failures 1: the two are never taken for one another. What it prints is read strictly: an
//! answer that isn't whole is none.

mod output;

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use mecapy_registry::Options as RegistryOptions;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::Error;
use crate::engine::{DatabaseInfo, Engine, EngineInfo, Scan, Target};

pub const NAME: &str = "trivy";
/// What `make trivy` installs, and the only version that is run unless another is configured.
pub const VERSION: &str = "0.66.0";
/// Releases with somebody else's code in them: GHSA-69fq-xp46-6x23.
const COMPROMISED: [&str; 3] = ["0.69.4", "0.69.5", "0.69.6"];
const FINDINGS: i32 = 10;
const VERSION_LIMIT: Duration = Duration::from_secs(20);
/// Longer than any report by a hundred times.
const OUTPUT_LIMIT_BYTES: usize = 256 << 20;

/// `[scanner.trivy]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    pub program: PathBuf,
    /// No other is run.
    pub version: String,
    /// With its database in it, which is not fetched from here. Each scanner has one of its own.
    pub cache: PathBuf,
    /// Of a `trivy server`, which then has the database.
    pub server: Option<String>,
    /// Images that it scans at once.
    pub concurrency: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            program: "trivy".into(),
            version: VERSION.to_owned(),
            cache: "/var/cache/mecapy/trivy".into(),
            server: None,
            concurrency: 2,
        }
    }
}

impl Options {
    pub fn validate(&self) -> Result<(), String> {
        if COMPROMISED.contains(&self.version.as_str()) {
            return Err(format!("version: {} is compromised (GHSA-69fq-xp46-6x23)", self.version));
        }
        if self.concurrency == 0 {
            return Err("concurrency: must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// Why trivy gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{} can't be run", program.display())]
    Run { program: PathBuf, source: std::io::Error },
    #[error("trivy is {found}, and {wanted} is asked for: `make trivy` installs it")]
    Version { found: String, wanted: String },
    #[error("trivy failed with exit code {code:?}: {stderr}")]
    Failed { code: Option<i32>, stderr: String },
    #[error("what trivy printed can't be read: {problem}")]
    Output { problem: String },
    #[error("trivy's database is of {updated}: more than {limit_days} days old")]
    DatabaseTooOld { updated: DateTime<Utc>, limit_days: i64 },
    #[error("trivy says nothing of its database: there is none in its cache")]
    NoDatabase,
}

pub struct Trivy {
    options: Options,
    registry: RegistryOptions,
    /// For one image.
    limit: Duration,
    max_age: chrono::Duration,
    slots: Semaphore,
    /// Why the last scan had no answer from it that has nothing to do with the image.
    trouble: Mutex<Option<String>>,
}

/// What it knows, as it says itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: String,
    #[serde(rename = "VulnerabilityDB")]
    database: Option<DatabaseVersion>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DatabaseVersion {
    version: u32,
    updated_at: DateTime<Utc>,
}

impl Trivy {
    pub fn new(
        options: Options,
        registry: RegistryOptions,
        limit: Duration,
        max_age: chrono::Duration,
    ) -> Self {
        let slots = Semaphore::new(options.concurrency);
        Self { options, registry, limit, max_age, slots, trouble: Mutex::new(None) }
    }

    /// Which trivy it is and how old its database, or why it must not be used.
    async fn version(&self) -> Result<Version, Error> {
        let mut command = self.command();
        command.args(["version", "--format", "json"]);
        let done = run(command, VERSION_LIMIT).await?;
        if done.status.code() != Some(0) {
            return Err(failed(&done).into());
        }
        let version: Version = serde_json::from_slice(&done.stdout)
            .map_err(|error| Failure::Output { problem: error.to_string() })?;
        let (found, wanted) = (version.version.clone(), self.options.version.clone());
        if found != wanted || COMPROMISED.contains(&found.as_str()) {
            return Err(Failure::Version { found, wanted }.into());
        }
        // A server answers for its own.
        if self.options.server.is_none() {
            let database = version.database.as_ref().ok_or(Failure::NoDatabase)?;
            let (updated, limit) = (database.updated_at, self.max_age);
            if Utc::now() - updated > limit {
                let limit_days = limit.num_days();
                return Err(Failure::DatabaseTooOld { updated, limit_days }.into());
            }
        }
        Ok(version)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.options.program);
        command
            .arg("--cache-dir")
            .arg(&self.options.cache)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn image_command(&self, target: Target<'_>) -> Command {
        let mut command = self.command();
        command.args([
            "image",
            "--quiet",
            "--format=json",
            "--list-all-pkgs",
            "--image-src=remote",
            "--exit-code=10",
            "--scanners=vuln",
            "--offline-scan",
            "--skip-db-update",
            "--skip-java-db-update",
            "--skip-check-update",
            "--skip-vex-repo-update",
            "--skip-version-check",
            "--disable-telemetry",
            // Its file cache locks for one process.
            "--cache-backend=memory",
        ]);
        if let Some(server) = &self.options.server {
            command.arg(format!("--server={server}"));
        }
        let registry = &self.registry;
        let plain = match &registry.endpoint {
            Some(endpoint) => endpoint.scheme() == "http",
            None => registry.plain_http,
        };
        if plain {
            command.arg("--insecure").env("TRIVY_NON_SSL", "true");
        }
        if let (Some(username), Some(password)) = (&registry.username, &registry.password) {
            command.env("TRIVY_USERNAME", username).env("TRIVY_PASSWORD", password.expose());
        }
        command.arg(format!("{}/{}@{}", self.host(), target.repository, target.digest));
        command
    }

    /// Where it reaches the registry.
    fn host(&self) -> String {
        let Some(endpoint) = &self.registry.endpoint else { return self.registry.host.clone() };
        match (endpoint.host_str(), endpoint.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => self.registry.host.clone(),
        }
    }

    async fn answer(&self, target: Target<'_>) -> Result<Scan, Error> {
        let version = self.version().await?;
        let done = run(self.image_command(target), self.limit).await?;
        let report = match done.status.code() {
            Some(0 | FINDINGS) => output::parse(&done.stdout, target.digest),
            _ => return Err(failed(&done).into()),
        };
        let (contents, findings) = report.map_err(|problem| Failure::Output { problem })?;
        if (done.status.code() == Some(FINDINGS)) == findings.is_empty() {
            let problem = "its exit code and its findings contradict one another".to_owned();
            return Err(Failure::Output { problem }.into());
        }
        let updated = version.database.as_ref().map(|database| database.updated_at);
        let database = match &version.database {
            Some(database) => format!("{}-{}", database.version, database.updated_at.timestamp()),
            None => "server".to_owned(),
        };
        Ok(Scan {
            image: format!("{}/{}@{}", target.registry.host(), target.repository, target.digest),
            digest: target.digest,
            engine: EngineInfo { name: NAME.to_owned(), version: version.version },
            database: DatabaseInfo {
                version: database,
                partial: false,
                newest: updated,
                age_hours: updated.map(|updated| (Utc::now() - updated).num_hours()),
                advisories: 0,
                ecosystems: Default::default(),
                unknown_ecosystems: Vec::new(),
            },
            contents,
            findings,
            layers: Vec::new(),
        })
    }

    fn note(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = trouble;
    }
}

#[async_trait]
impl Engine for Trivy {
    async fn scan(&self, target: Target<'_>) -> Result<Scan, Error> {
        let Ok(_slot) = self.slots.acquire().await else {
            return Err(Error::TimedOut { limit: self.limit });
        };
        let answer = self.answer(target).await;
        self.note(match &answer {
            Err(Error::Trivy(
                failure @ (Failure::Run { .. }
                | Failure::Version { .. }
                | Failure::NoDatabase
                | Failure::DatabaseTooOld { .. }),
            )) => Some(failure.to_string()),
            _ => None,
        });
        answer
    }

    fn check(&self) -> Result<(), Error> {
        let trouble = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*trouble {
            None => Ok(()),
            Some(stderr) => Err(Failure::Failed { code: None, stderr: stderr.clone() }.into()),
        }
    }
}

async fn run(mut command: Command, limit: Duration) -> Result<Output, Error> {
    let program = PathBuf::from(command.as_std().get_program());
    let unrunnable = |source| Failure::Run { program: program.clone(), source };
    // Dropping the child, when the time is over, kills it.
    let child = command.spawn().map_err(unrunnable)?;
    let output = tokio::time::timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| Error::TimedOut { limit })?
        .map_err(unrunnable)?;
    if output.stdout.len() > OUTPUT_LIMIT_BYTES {
        return Err(Failure::Output { problem: "it is too long".to_owned() }.into());
    }
    Ok(output)
}

/// The last lines say why.
fn failed(done: &Output) -> Failure {
    let stderr = String::from_utf8_lossy(&done.stderr);
    let lines: Vec<&str> = stderr.lines().rev().take(3).collect();
    let stderr = lines.into_iter().rev().collect::<Vec<_>>().join(" / ");
    Failure::Failed { code: done.status.code(), stderr }
}

#[cfg(test)]
mod tests;
