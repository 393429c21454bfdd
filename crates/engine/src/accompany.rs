//! A container's life from its start to its end, and what its end was.

use std::time::Duration;

use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error as EngineError;
use bollard::query_parameters::{KillContainerOptionsBuilder, WaitContainerOptionsBuilder};
use futures::StreamExt;
use futures::future::{BoxFuture, OptionFuture};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::frames::{Frames, Report};
use crate::{End, Engine, Error, RunOutcome, RunRequest, Timings};

/// How long after its end a container's news of a want of memory may come.
const LATE_EVENT: Duration = Duration::from_secs(1);
/// How long a container may take to be gone after it was killed, and its streams to end after it.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// How long a function runs before the engine is asked for its container's end too. Until then its stream alone is
/// listened to: a wait costs the engine more than a short function takes.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// Inputs that go out in one write with their length.
const FIRST_WRITE: usize = 64 * 1024;

/// How a container knows that its inputs are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    /// stdin ends after them.
    ToTheEnd,
    /// Their length comes before them, and stdin stays open: a parked container ends with it.
    Measured,
}

/// Why we killed it: noted before killing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    TimeOut,
    Cancel,
}

/// A container that ended, before it is judged.
pub(crate) struct Ended {
    pub(crate) intent: Option<Intent>,
    exit_code: i64,
    pub(crate) report: Report,
    run: Duration,
}

impl Engine {
    /// From started to ended: writes stdin, reads everything, kills at the limit or on a cancel.
    ///
    /// It ends when the runner has told that the function ended well and what its result is: nothing that comes after
    /// can change the judgement. Whatever else it tells needs the evidence of the container's end.
    pub(crate) async fn accompany(
        &self,
        container: &str,
        request: &RunRequest,
        streams: &mut AttachContainerResults,
        feed: Feed,
        stop: &CancellationToken,
    ) -> Result<Ended, Error> {
        let limits = &request.limits;
        let mut frames = Frames::new(limits.stdout_bytes, limits.stderr_bytes, limits.output_bytes)
            .with_live(request.live.clone());
        let began = tokio::time::Instant::now();
        let AttachContainerResults { output, input } = streams;
        let (close, closing) = oneshot::channel();
        let mut close = Some(close);
        let feeding = async {
            // A container that ends before it has read its inputs breaks this pipe: its end says more
            // than the error could.
            match feed {
                Feed::ToTheEnd => {
                    let _ = input.write_all(&request.stdin).await;
                }
                Feed::Measured => {
                    let _ = write_measured(input, &request.stdin).await;
                    let _ = closing.await;
                }
            }
            let _ = input.shutdown().await;
        };
        let wait = self.exit_code(container, request);
        tokio::pin!(feeding, wait);

        let mut intent = None;
        let mut deadline = began + limits.timeout;
        let (mut fed, mut drained) = (false, false);
        let mut asks = false;
        let ask_after = tokio::time::sleep(ASK_AFTER);
        tokio::pin!(ask_after);
        // Beside the reading: the engine does not answer a kill before what the container wrote is taken from it.
        let mut killing: Option<BoxFuture<'_, Result<(), Error>>> = None;
        let mut exit_code = None;
        while exit_code.is_none() || !drained {
            if intent.is_none() && frames.tell_of_success() {
                break;
            }
            asks |= drained || intent.is_some();
            if frames.are_over()
                && let Some(close) = close.take()
            {
                // What its runner did not tell as a success: it must not wait for more from us.
                let _ = close.send(());
            }
            tokio::select! {
                () = stop.cancelled(), if intent.is_none() && exit_code.is_none() => {
                    intent = Some(Intent::Cancel);
                    killing = Some(Box::pin(self.kill(container)));
                    deadline = tokio::time::Instant::now() + LAST_WORDS;
                }
                () = tokio::time::sleep_until(deadline) => {
                    if exit_code.is_some() {
                        // Ended, but its stream doesn't: what was read counts.
                        break;
                    }
                    if intent.is_some() {
                        return Err(Error::NoAnswer { call: "kill a container", limit: LAST_WORDS });
                    }
                    intent = Some(Intent::TimeOut);
                    killing = Some(Box::pin(self.kill(container)));
                    deadline = tokio::time::Instant::now() + LAST_WORDS;
                }
                killed = OptionFuture::from(killing.as_mut()), if killing.is_some() => {
                    killing = None;
                    killed.unwrap_or(Ok(()))?;
                }
                () = &mut feeding, if !fed => fed = true,
                item = output.next(), if !drained => match item {
                    Some(Ok(LogOutput::StdErr { message })) => frames.push_raw_stderr(&message),
                    Some(Ok(message)) => frames.push(&message.into_bytes()),
                    // A broken stream ends here too: whether the container ended is for `wait` to say.
                    Some(Err(_)) | None => drained = true,
                },
                () = &mut ask_after, if !asks => asks = true,
                code = &mut wait, if asks && exit_code.is_none() => {
                    exit_code = Some(code?);
                    deadline = tokio::time::Instant::now() + LAST_WORDS;
                }
            }
        }
        Ok(Ended {
            intent,
            exit_code: exit_code.unwrap_or_default(),
            report: frames.finish(),
            run: began.elapsed(),
        })
    }

    async fn exit_code(&self, container: &str, request: &RunRequest) -> Result<i64, Error> {
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let mut answers = std::pin::pin!(self.docker.wait_container(container, Some(options)));
        match answers.next().await {
            Some(Ok(answer)) => Ok(answer.status_code),
            // How the client library gives every code but 0.
            Some(Err(EngineError::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(EngineError::DockerResponseServerError { status_code: 404, .. })) => {
                Err(Error::ContainerLost { name: request.name.clone() })
            }
            Some(Err(error)) => Err(Error::of_call("wait for a container", &self.host, error)),
            None => Err(Error::Incomplete { call: "wait for a container", what: "exit code" }),
        }
    }

    async fn kill(&self, container: &str) -> Result<(), Error> {
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        match self
            .call("kill a container", self.docker.kill_container(container, Some(options)))
            .await
        {
            // It ended by itself in this moment, or is gone: the wait tells.
            Err(Error::Refused { status: 404 | 409, .. }) => Ok(()),
            other => other,
        }
    }

    /// The engine's flag, or where something was killed and the flag is not up, its event: on some
    /// engines the news from the kernel comes after the container's end. Where it ended well, or we ended it, nobody
    /// asks. What the engine tells is of the container's whole life: after other turns it counts only where the function
    /// itself was killed.
    pub(crate) async fn ran_out_of_memory(
        &self,
        container: &str,
        request: &RunRequest,
        ended: &Ended,
        had_turns: bool,
    ) -> Result<bool, Error> {
        let is_no_sign = had_turns && !ended.was_killed_by_another();
        if ended.intent.is_some() || ended.report.exit == Some(0) || is_no_sign {
            return Ok(false);
        }
        let inspect = self.docker.inspect_container(container, None);
        let state = match self.call("inspect a container", inspect).await {
            Ok(found) => found.state.unwrap_or_default(),
            Err(Error::Refused { status: 404, .. }) => {
                return Err(Error::ContainerLost { name: request.name.clone() });
            }
            Err(error) => return Err(error),
        };
        if state.oom_killed == Some(true) || !ended.was_killed_by_another() {
            return Ok(state.oom_killed == Some(true));
        }
        let mut events = std::pin::pin!(self.out_of_memory_events(Some(container)));
        Ok(matches!(tokio::time::timeout(LATE_EVENT, events.next()).await, Ok(Some(_))))
    }
}

/// Eight bytes of length, and the inputs.
async fn write_measured(
    input: &mut (impl AsyncWrite + Unpin),
    inputs: &[u8],
) -> std::io::Result<()> {
    let (first, rest) = inputs.split_at(inputs.len().min(FIRST_WRITE));
    let length = (inputs.len() as u64).to_be_bytes();
    input.write_all(&[&length, first].concat()).await?;
    input.write_all(rest).await?;
    input.flush().await
}

impl Ended {
    pub(crate) fn into_outcome(
        self,
        out_of_memory: bool,
        create: Duration,
        start: Duration,
    ) -> RunOutcome {
        RunOutcome {
            end: judge(self.intent, self.report.exit, self.exit_code, out_of_memory),
            output: self.report.output,
            stdout: self.report.stdout,
            stderr: self.report.stderr,
            timings: Timings { create, start, run: self.run },
        }
    }

    /// By the kernel, for want of memory, or by the function itself.
    fn was_killed_by_another(&self) -> bool {
        let killed = match self.report.exit {
            Some(code) => code == -9,
            None => self.exit_code == 137,
        };
        killed && self.intent.is_none()
    }
}

/// How it ended, from all the evidence. `reported` is the runner's word about the function, `exit_code`
/// the engine's about the container.
///
/// Our own intent counts first: our kill makes the engine report signal 9 and can raise its memory
/// flag. A function that caught the death of a child for want of memory and ended well, ended well.
fn judge(
    intent: Option<Intent>,
    reported: Option<i32>,
    exit_code: i64,
    out_of_memory: bool,
) -> End {
    match (intent, reported) {
        (Some(Intent::TimeOut), _) => End::TimedOut,
        (Some(Intent::Cancel), _) => End::Cancelled,
        (None, Some(0)) => End::Exited(0),
        (None, _) if out_of_memory => End::OutOfMemory,
        (None, Some(code)) if code < 0 => End::Signaled(-code),
        (None, Some(code)) => End::Exited(code),
        // The runner did not get to say it. 128 + n is how the engine writes signal n.
        (None, None) => match i32::try_from(exit_code).unwrap_or(i32::MAX) {
            code @ 129..=192 => End::Signaled(code - 128),
            code => End::Exited(code),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_judged_by_its_evidence() {
        let (time_out, cancel) = (Some(Intent::TimeOut), Some(Intent::Cancel));
        for (intent, reported, exit_code, oom, end) in [
            (None, Some(0), 0, false, End::Exited(0)),
            (None, Some(3), 0, false, End::Exited(3)),
            (None, Some(137), 0, false, End::Exited(137)),
            (None, Some(-11), 0, false, End::Signaled(11)),
            (None, Some(-9), 0, false, End::Signaled(9)),
            (None, Some(-9), 0, true, End::OutOfMemory),
            (None, Some(1), 0, true, End::OutOfMemory),
            (None, Some(0), 0, true, End::Exited(0)),
            (None, None, 137, false, End::Signaled(9)),
            (None, None, 137, true, End::OutOfMemory),
            (None, None, 2, false, End::Exited(2)),
            (time_out, None, 137, false, End::TimedOut),
            (time_out, None, 137, true, End::TimedOut),
            (time_out, Some(-9), 137, true, End::TimedOut),
            (cancel, None, 137, true, End::Cancelled),
        ] {
            let judged = judge(intent, reported, exit_code, oom);
            assert_eq!(judged, end, "{intent:?} {reported:?} {exit_code} {oom}");
        }
    }
}
