//! One container, from create to gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::container::AttachContainerResults;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, StartContainerOptions,
};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::accompany::Feed;
use crate::spent::{Owned, Spent};
use crate::{Capped, Engine, Error, Limits, OutputProblem, hardening};

/// The runner of the base image; `--output-limit=<bytes>` follows.
pub const RUNNER: [&str; 4] = ["python", "-I", "-S", "/opt/mecapy/runner.py"];

/// Gets what a function writes to its stdout and stderr, in pieces as they come. Called between two reads of the
/// container's stream, so it must not block.
#[derive(Clone)]
pub struct OutputSink(Arc<Take>);

type Take = dyn Fn(&[u8]) + Send + Sync;

impl OutputSink {
    pub fn new(take: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(crate) fn send(&self, piece: &[u8]) {
        (self.0)(piece);
    }
}

impl std::fmt::Debug for OutputSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OutputSink")
    }
}

/// One run.
#[derive(Debug, Clone, Default)]
pub struct RunRequest {
    /// By digest or id, so that nothing can be put in its place.
    pub image: String,
    /// The container's name; one that is taken is [`Error::NameTaken`].
    pub name: String,
    /// Must speak the runner's frames. Empty: the [`RUNNER`] with the limit for its output.
    pub cmd: Vec<String>,
    /// `KEY=value`, over the image's own.
    pub env: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub limits: Limits,
    /// The inputs.
    pub stdin: Bytes,
    /// The engine's default when absent.
    pub runtime: Option<String>,
    /// A file of the engine's host in the place of one of the image.
    pub file: Option<ReadOnlyFile>,
    /// Absent: the engine sets up a network for it that has nobody in it.
    pub names: Option<NameFiles>,
    /// Onlookers.
    pub live: Option<OutputSink>,
}

/// A file of the engine's host that a container sees and can't write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOnlyFile {
    pub host: PathBuf,
    pub container: String,
}

/// Files of the engine's host by which a container knows `localhost`, for which the engine sets up no network at all.
/// runc and crun give it a network namespace with the loopback interface and nothing else either way, others may not; but
/// the engine's part is half of the time that a start takes, and these two files would come with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameFiles {
    /// `/etc/hosts`
    pub hosts: PathBuf,
    /// `/etc/resolv.conf`
    pub resolv_conf: PathBuf,
}

impl RunRequest {
    /// What is mounted into the container, read-only.
    pub(crate) fn files(&self) -> Vec<ReadOnlyFile> {
        let names = self.names.iter().flat_map(|NameFiles { hosts, resolv_conf }| {
            [(hosts, "/etc/hosts"), (resolv_conf, "/etc/resolv.conf")].map(|(host, container)| {
                ReadOnlyFile { host: host.clone(), container: container.to_owned() }
            })
        });
        self.file.iter().cloned().chain(names).collect()
    }

    pub(crate) fn command(&self) -> Vec<String> {
        if !self.cmd.is_empty() {
            return self.cmd.clone();
        }
        let limit = format!("--output-limit={}", self.limits.output_bytes);
        RUNNER.iter().map(|part| (*part).to_owned()).chain([limit]).collect()
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The function ended by itself.
    Exited(i32),
    /// A signal ended it that was neither ours nor the kernel's for want of memory.
    Signaled(i32),
    TimedOut,
    OutOfMemory,
    Cancelled,
}

/// What became of a run.
#[derive(Debug)]
pub struct RunOutcome {
    pub end: End,
    /// The bytes of `/output.json`, unparsed.
    pub output: Result<Bytes, OutputProblem>,
    pub stdout: Capped,
    pub stderr: Capped,
    pub timings: Timings,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    pub create: Duration,
    /// Attach and start.
    pub start: Duration,
    /// From started to ended.
    pub run: Duration,
}

impl Engine {
    /// Runs one container to its end. `Err` means that the engine could not run it, not that the function failed;
    /// then it is removed. Else it is removed when the caller lets go of it: its removal is work for the machine,
    /// which can wait until the result is kept. Dropping the future is a cancel.
    pub async fn run(
        &self,
        request: RunRequest,
        cancel: &CancellationToken,
    ) -> Result<(RunOutcome, Spent), Error> {
        let stop = cancel.child_token();
        let _with_the_caller = stop.clone().drop_guard();
        let engine = self.clone();
        let run = async move { engine.run_to_its_end(&request, &stop).await };
        tokio::spawn(run.in_current_span())
            .await
            .unwrap_or(Err(Error::Interrupted { call: "run a container" }))
    }

    async fn run_to_its_end(
        &self,
        request: &RunRequest,
        stop: &CancellationToken,
    ) -> Result<(RunOutcome, Spent), Error> {
        if stop.is_cancelled() {
            return Ok((RunOutcome::never_started(), Spent::nothing()));
        }
        let began = Instant::now();
        let id = match self.create(request).await {
            Err(error @ Error::NoAnswer { .. }) => {
                // It may have been made all the same.
                self.remove_or_leave(&request.name).await;
                return Err(error);
            }
            created => created?,
        };
        let create = began.elapsed();
        let container = Owned::new(self, id);
        match self.drive(&container.id, request, stop).await {
            Ok((mut outcome, streams)) => {
                outcome.timings.create = create;
                Ok((outcome, Spent::new(container, Some(streams))))
            }
            Err(error) => {
                container.remove().await;
                Err(error)
            }
        }
    }

    pub(crate) async fn create(&self, request: &RunRequest) -> Result<String, Error> {
        let options = CreateContainerOptionsBuilder::default().name(&request.name).build();
        let body = hardening::container(request);
        match self
            .call("create a container", self.docker.create_container(Some(options), body))
            .await
        {
            Ok(created) => Ok(created.id),
            Err(Error::Refused { status: 404, .. }) => {
                Err(Error::ImageNotFound { image: request.image.clone() })
            }
            Err(Error::Refused { status: 409, .. }) => {
                Err(Error::NameTaken { name: request.name.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// Attach, start, feed, listen, judge.
    async fn drive(
        &self,
        container: &str,
        request: &RunRequest,
        stop: &CancellationToken,
    ) -> Result<(RunOutcome, AttachContainerResults), Error> {
        let began = Instant::now();
        let mut streams = self.attach_and_start(container, request).await?;
        let start = began.elapsed();
        let ended = self.accompany(container, request, &mut streams, Feed::ToTheEnd, stop).await?;
        let out_of_memory = self.ran_out_of_memory(container, request, &ended, false).await?;
        Ok((ended.into_outcome(out_of_memory, Duration::ZERO, start), streams))
    }

    pub(crate) async fn attach_and_start(
        &self,
        container: &str,
        request: &RunRequest,
    ) -> Result<AttachContainerResults, Error> {
        // Attached before it starts, so that its first byte can't be missed.
        let options = AttachContainerOptionsBuilder::default()
            .stream(true)
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .build();
        let streams = self
            .call("attach to a container", self.docker.attach_container(container, Some(options)))
            .await?;
        let start = self.docker.start_container(container, None::<StartContainerOptions>);
        match self.call("start a container", start).await {
            // The image can't be started. With 5xx it is the engine that can't: a full disk, no memory.
            Err(Error::Refused { status, message, .. }) if status < 500 => {
                Err(Error::Start { image: request.image.clone(), message })
            }
            started => started.map(|()| streams),
        }
    }
}

impl RunOutcome {
    pub(crate) fn never_started() -> Self {
        Self {
            end: End::Cancelled,
            output: Err(OutputProblem::Unreported),
            stdout: Capped::default(),
            stderr: Capped::default(),
            timings: Timings::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_is_told_the_limit_of_its_output() {
        let request = RunRequest::default();
        let command = ["python", "-I", "-S", "/opt/mecapy/runner.py", "--output-limit=10485760"];
        assert_eq!(request.command(), command);
    }
}
