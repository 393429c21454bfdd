//! A container that is started ahead: its interpreter is up and waits on stdin for the one turn that it gets.
//!
//! If its owner dies, the engine closes its stdin, and it ends without having run anything.

use std::time::Duration;

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::query_parameters::{RenameContainerOptionsBuilder, StatsOptionsBuilder};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use crate::accompany::Feed;
use crate::frames::HEADER_BYTES;
use crate::spent::{Owned, Spent};
use crate::{Engine, Error, OutputSink, RunOutcome, RunRequest};

/// How long the interpreter may take to be up, imports and all.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// What it says of the code's place is a few words, and what lies there.
const WORDS_BYTES: usize = 2048;

/// A container that waits. Dropping it removes it.
#[derive(Debug)]
pub struct Parked {
    pub(crate) container: Owned,
    pub(crate) request: RunRequest,
    pub(crate) streams: Option<AttachContainerResults>,
    pub(crate) words: String,
    pub(crate) had_turns: bool,
}

/// What a parked container is given.
#[derive(Debug, Clone)]
pub struct Turn {
    pub inputs: Bytes,
    pub timeout: Duration,
    /// SHA-256 of the code that was laid out, in hex.
    pub code_sha256: String,
    /// Onlookers.
    pub live: Option<OutputSink>,
}

impl Engine {
    /// Starts a container of an image with the runner, up to where only inputs are missing. `imports` are modules
    /// that it imports meanwhile. The request's `stdin` and `cmd` are not used.
    pub async fn park(&self, mut request: RunRequest, imports: &[String]) -> Result<Parked, Error> {
        request.cmd.clear();
        request.cmd = request.command();
        request.cmd.push("--parked".to_owned());
        if !imports.is_empty() {
            request.cmd.push(format!("--import={}", imports.join(",")));
        }
        let engine = self.clone();
        // Not this future's: dropped in between, it would leave a container that nobody knows.
        let park = async move { engine.park_whole(request).await };
        tokio::spawn(park.in_current_span())
            .await
            .unwrap_or(Err(Error::Interrupted { call: "park a container" }))
    }

    async fn park_whole(&self, request: RunRequest) -> Result<Parked, Error> {
        let id = match self.create(&request).await {
            Err(error @ Error::NoAnswer { .. }) => {
                self.remove_or_leave(&request.name).await;
                return Err(error);
            }
            created => created?,
        };
        let container = Owned::new(self, id);
        let mut streams = self.attach_and_start(&container.id, &request).await?;
        let words = await_first_words(&mut streams, &request, UP_WITHIN).await?;
        Ok(Parked { container, request, streams: Some(streams), words, had_turns: false })
    }

    /// Gives a container another name.
    pub async fn rename_container(&self, container: &str, name: &str) -> Result<(), Error> {
        let options = RenameContainerOptionsBuilder::default().name(name).build();
        match self
            .call("rename a container", self.docker.rename_container(container, options))
            .await
        {
            Err(Error::Refused { status: 409, .. }) => {
                Err(Error::NameTaken { name: name.to_owned() })
            }
            other => other,
        }
    }

    /// The memory that a container uses now, in bytes. `None`: the engine can't tell.
    pub async fn memory_of(&self, container: &str) -> Option<u64> {
        let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        let mut stats = std::pin::pin!(self.docker.stats(container, Some(options)));
        let answer = tokio::time::timeout(self.call_timeout, stats.next()).await.ok()??.ok()?;
        answer.memory_stats?.usage
    }
}

impl Parked {
    pub fn id(&self) -> &str {
        &self.container.id
    }

    /// What it says of the code's place before there is code: `uid:gid mode content`, the mode in octal.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// Whether it still waits, as far as its streams tell.
    pub fn is_waiting(&mut self) -> bool {
        // It has nothing to say before its turn.
        self.streams.as_mut().is_some_and(|streams| streams.output.next().now_or_never().is_none())
    }

    /// Returns when the container is gone, or left to the next sweep by label.
    pub async fn remove(self) {
        self.container.remove().await;
    }

    /// Its one turn. `Err` means that the function was not run, or not seen to its end: it may be run again
    /// elsewhere. Dropping the future is a cancel. The container is removed when the caller lets go of it: its
    /// removal is work for the machine, which can wait until the result is kept.
    pub async fn run(
        self,
        turn: Turn,
        cancel: &CancellationToken,
    ) -> Result<(RunOutcome, Spent), Error> {
        let stop = cancel.child_token();
        let _with_the_caller: DropGuard = stop.clone().drop_guard();
        let run = async move { self.run_to_its_end(turn, &stop).await };
        tokio::spawn(run.in_current_span())
            .await
            .unwrap_or(Err(Error::Interrupted { call: "run a container" }))
    }

    async fn run_to_its_end(
        mut self,
        turn: Turn,
        stop: &CancellationToken,
    ) -> Result<(RunOutcome, Spent), Error> {
        let outcome = self.take_turn(turn, stop).await?;
        Ok((outcome, Spent::of_parked(self)))
    }

    async fn take_turn(
        &mut self,
        turn: Turn,
        stop: &CancellationToken,
    ) -> Result<RunOutcome, Error> {
        if stop.is_cancelled() {
            return Ok(RunOutcome::never_started());
        }
        let Some(streams) = self.streams.as_mut() else {
            return Err(Error::ContainerLost { name: self.request.name.clone() });
        };
        self.request.stdin = turn.inputs;
        self.request.limits.timeout = turn.timeout;
        self.request.live = turn.live;
        let (engine, id) = (&self.container.engine, &self.container.id);
        let ended = engine.accompany(id, &self.request, streams, Feed::Measured, stop).await?;
        match &ended.report.began_with {
            Some(code) if *code == turn.code_sha256 => {}
            Some(_) => return Err(Error::OtherCode { name: self.request.name.clone() }),
            // It was cancelled before it began, or it never began.
            None if stop.is_cancelled() => return Ok(RunOutcome::never_started()),
            None => return Err(Error::ContainerLost { name: self.request.name.clone() }),
        }
        let out_of_memory =
            engine.ran_out_of_memory(id, &self.request, &ended, self.had_turns).await?;
        Ok(ended.into_outcome(out_of_memory, Duration::ZERO, Duration::ZERO))
    }
}

pub(crate) async fn await_first_words(
    streams: &mut AttachContainerResults,
    request: &RunRequest,
    within: Duration,
) -> Result<String, Error> {
    let said = tokio::time::timeout(within, first_words(streams)).await;
    said.unwrap_or_else(|_| Err(format!("it was not up within {within:?}")))
        .map_err(|reason| Error::NotParked { image: request.image.clone(), reason })
}

/// The frame with which it says that it waits. `Err`: what it said instead.
async fn first_words(streams: &mut AttachContainerResults) -> Result<String, String> {
    let (mut frame, mut complaint) = (Vec::new(), Vec::new());
    loop {
        match streams.output.next().await {
            // Before another turn it may come from a function that has not really ended.
            Some(Ok(LogOutput::StdErr { message })) => {
                let room = WORDS_BYTES.saturating_sub(complaint.len());
                complaint.extend_from_slice(message.get(..room).unwrap_or(&message));
            }
            Some(Ok(message)) => frame.extend_from_slice(&message.into_bytes()),
            Some(Err(_)) | None => {
                return Err(format!("it ended: {}", String::from_utf8_lossy(&complaint)));
            }
        }
        if let Some(([kind, length @ ..], words)) = frame.split_first_chunk::<HEADER_BYTES>() {
            let length = u32::from_be_bytes(*length) as usize;
            if *kind != b'w' || length > WORDS_BYTES || words.len() > length {
                return Err("it said something else than that it waits".to_owned());
            }
            if words.len() == length {
                return Ok(String::from_utf8_lossy(words).into_owned());
            }
        }
    }
}
