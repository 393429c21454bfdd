//! A task as it goes: its states, what its function writes, its end.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mecapy_bus::{Position, Words};
use mecapy_proto::TaskId;
use mecapy_store::TaskState;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use crate::{Caller, Error, view};

/// Events that a slow reader may be behind; then what the function writes waits, and what comes beyond is lost.
const BUFFER: usize = 64;
/// A worker gathers for a moment what a function writes; the end of a task may be seen before its last words.
const LAST_WORDS: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) enum TaskEvent {
    /// The first event, and each change.
    Status(TaskState),
    /// What the function wrote, to either stream, since the last of these.
    Log(Words),
    /// The last event.
    Ended(Box<view::Task>),
}

struct Watch {
    api: Api,
    caller: Caller,
    id: TaskId,
    to: mpsc::Sender<TaskEvent>,
    words: Pin<Box<dyn Stream<Item = Words> + Send>>,
    seen: Option<TaskState>,
    /// The largest result that is part of the end.
    inline: u64,
}

impl Api {
    /// The events of a task until its end: at once the state that it is in, and what its function wrote after what
    /// was `told` already. It ends without an end when this process does.
    pub(crate) async fn watch_task(
        &self,
        caller: &Caller,
        id: TaskId,
        inline: u64,
        told: Position,
    ) -> Result<ReceiverStream<TaskEvent>, Error> {
        self.task(caller, id, Duration::ZERO, 0).await?;
        // Before the first look, so that nothing is lost between the two.
        let words = Box::pin(self.0.live.follow_task_log(id, told).await?);
        let (to, events) = mpsc::channel(BUFFER);
        let (api, caller) = (self.clone(), caller.clone());
        tokio::spawn(Watch { api, caller, id, to, words, seen: None, inline }.run());
        Ok(ReceiverStream::new(events))
    }
}

impl Watch {
    async fn run(mut self) {
        let mut wakeup = self.api.0.hub.subscribe(self.id.uuid());
        let shutdown = self.api.0.shutdown.clone();
        let look_every = self.api.0.look_every;
        let mut words_come = true;
        while self.look().await {
            loop {
                tokio::select! {
                    () = wakeup.woken() => break,
                    () = tokio::time::sleep(look_every) => break,
                    () = shutdown.cancelled() => return,
                    () = self.to.closed() => return,
                    words = self.words.next(), if words_come => {
                        let Some(words) = words else { words_come = false; continue };
                        if self.to.send(TaskEvent::Log(words)).await.is_err() {
                            return;
                        }
                        // The first words say that it runs.
                        if self.seen == Some(TaskState::Queued) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Reads the task and tells what is new. False: there is no more to tell.
    async fn look(&mut self) -> bool {
        let task = match self.api.visible_task(&self.caller, self.id).await {
            Ok(task) => task,
            Err(error) => return error.is_transient(),
        };
        let state = task.state;
        if state.is_final() && self.seen.is_some() {
            while let Ok(Some(words)) = tokio::time::timeout(LAST_WORDS, self.words.next()).await {
                if self.to.send(TaskEvent::Log(words)).await.is_err() {
                    return false;
                }
            }
        }
        if self.seen.replace(state) != Some(state)
            && self.to.send(TaskEvent::Status(state)).await.is_err()
        {
            return false;
        }
        if !state.is_final() {
            return true;
        }
        match self.api.task(&self.caller, self.id, Duration::ZERO, self.inline).await {
            Ok(task) => {
                let _ = self.to.send(TaskEvent::Ended(Box::new(task))).await;
                false
            }
            // Looked at again: its end is to be told with its result.
            Err(error) => error.is_transient(),
        }
    }
}
