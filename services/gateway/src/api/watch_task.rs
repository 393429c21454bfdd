//! A task as it goes: its states, what its function writes, its end.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mecapy_bus::{Position, Words};
use mecapy_proto::TaskId;
use mecapy_store::TaskState;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use crate::{Caller, Error, view};

/// Events that a slow reader may be behind; then what the function writes waits, and what comes beyond is lost.
const BUFFER: usize = 64;
/// The end of a task may be seen before its last words. They are waited for as long as who has them may take to answer,
/// and this.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Where they don't come: their worker died, say.
const END_MISSING: &str = "\n[... the end may be missing here; the log has it ...]\n";

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
    /// Somebody was here before, and was told a part.
    was_told: bool,
    /// The attempt whose words were all told.
    told_whole: u32,
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
        let was_told = told != Position::default();
        let watch =
            Watch { api, caller, id, to, words, was_told, told_whole: 0, seen: None, inline };
        tokio::spawn(watch.run());
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
                        if !self.tell(words).await {
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
        // Who comes when all is over has the log that is kept.
        let listens = self.seen.is_some() || self.was_told;
        if state.is_final() && listens && !self.tell_the_rest(task.attempt.unsigned_abs()).await {
            return false;
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

    /// False: nobody listens any more.
    async fn tell(&mut self, words: Words) -> bool {
        if let (true, Some(end)) = (words.is_last, words.end) {
            self.told_whole = end.attempt;
        }
        words.text.is_empty() || self.to.send(TaskEvent::Log(words)).await.is_ok()
    }

    /// What the last attempt wrote before the task's end, if there was one. False: nobody listens any more.
    async fn tell_the_rest(&mut self, attempt: u32) -> bool {
        let until = Instant::now() + self.api.0.live.answer_within() + LAST_WORDS;
        let shutdown = self.api.0.shutdown.clone();
        while self.told_whole < attempt {
            let words = tokio::select! {
                words = tokio::time::timeout_at(until, self.words.next()) => words.ok().flatten(),
                () = shutdown.cancelled() => return false,
                () = self.to.closed() => return false,
            };
            let words = words.unwrap_or_else(|| {
                self.told_whole = attempt;
                Words { text: END_MISSING.to_owned(), end: None, is_last: false }
            });
            if !self.tell(words).await {
                return false;
            }
        }
        true
    }
}
