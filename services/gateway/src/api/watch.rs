//! A build as it goes: its states, the lines of its log, its end.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mecapy_proto::BuildId;
use mecapy_store::BuildState;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use crate::{Caller, Error, view};

/// Events that a slow reader may be behind; then its log lines wait, and those beyond are lost.
const BUFFER: usize = 64;
/// The end of a build may be seen before its last lines have come.
const LAST_LINES: Duration = Duration::from_millis(150);

#[derive(Debug)]
pub(crate) enum BuildEvent {
    /// The first event, and each change.
    Status(BuildState),
    /// A line, or several at once.
    Log(String),
    /// The last event.
    Ended(Box<view::Function>),
}

type Lines = Pin<Box<dyn Stream<Item = String> + Send>>;

struct Watch {
    api: Api,
    caller: Caller,
    id: BuildId,
    to: mpsc::Sender<BuildEvent>,
    lines: Lines,
    seen: Option<BuildState>,
}

impl Api {
    /// The events of a build until its end: at once the state that it is in. It ends without an end when this
    /// process does.
    pub(crate) async fn watch(
        &self,
        caller: &Caller,
        id: BuildId,
    ) -> Result<ReceiverStream<BuildEvent>, Error> {
        self.visible_build(caller, id).await?;
        // Before the first look, so that no line is lost between the two.
        let lines = self.0.live.build_log(id).subscribe().await?;
        let (to, events) = mpsc::channel(BUFFER);
        let watch = Watch {
            api: self.clone(),
            caller: caller.clone(),
            id,
            to,
            lines: Box::pin(lines),
            seen: None,
        };
        tokio::spawn(watch.run());
        Ok(ReceiverStream::new(events))
    }
}

/// What to do after a step.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}

impl Watch {
    async fn run(mut self) {
        let mut wakeup = self.api.0.hub.subscribe(self.id.uuid());
        let shutdown = self.api.0.shutdown.clone();
        let look_every = self.api.0.look_every;
        let mut lines_come = true;
        while self.look().await == Next::GoOn {
            // Lines may come in numbers: the database is read again only for the first, which tells that the
            // build has begun.
            loop {
                tokio::select! {
                    () = wakeup.woken() => break,
                    () = tokio::time::sleep(look_every) => break,
                    () = shutdown.cancelled() => return,
                    () = self.to.closed() => return,
                    line = self.lines.next(), if lines_come => {
                        let Some(line) = line else { lines_come = false; continue };
                        if self.to.send(BuildEvent::Log(line)).await.is_err() {
                            return;
                        }
                        if self.seen == Some(BuildState::Queued) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Reads the build and tells what is new.
    async fn look(&mut self) -> Next {
        let overview = match self.api.visible_build(&self.caller, self.id).await {
            Ok(overview) => overview,
            Err(error) if error.is_transient() => return Next::GoOn,
            // Its function was deleted meanwhile.
            Err(_) => return Next::Stop,
        };
        let Some(state) = overview.build.as_ref().map(|build| build.state) else {
            return Next::Stop;
        };
        if state.is_final() {
            while let Ok(Some(line)) = tokio::time::timeout(LAST_LINES, self.lines.next()).await {
                if self.to.send(BuildEvent::Log(line)).await.is_err() {
                    return Next::Stop;
                }
            }
        }
        if self.seen.replace(state) != Some(state)
            && self.to.send(BuildEvent::Status(state)).await.is_err()
        {
            return Next::Stop;
        }
        if state.is_final() {
            let _ = self.to.send(BuildEvent::Ended(Box::new(view::Function::of(overview)))).await;
            return Next::Stop;
        }
        Next::GoOn
    }
}
