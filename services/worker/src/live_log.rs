//! What a function writes, to onlookers while it runs: gathered for a moment, within a limit, and never waited for. Who
//! comes late is told of what was written before. All of it is kept on S3 at the end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use mecapy_bus::{Live, LiveLines, Position};
use mecapy_engine::OutputSink;
use mecapy_proto::TaskId;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// One message for what is written within this time.
const GATHER: Duration = Duration::from_millis(50);
/// And no more than this in it; the rest is left out, with a note.
const MAX_BYTES: usize = 64 * 1024;
/// Logs that have ended, for who asks between a function's end and its task's, and some time longer.
const ENDED_LOGS: usize = 256;
const ENDED_BYTES: usize = 2 << 20;

const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The logs of the tasks that run here, and of those that ran last. A handle; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct LiveLogs(Arc<Mutex<Logs>>);

#[derive(Default)]
struct Logs {
    /// The newest attempt's of each task.
    of: HashMap<TaskId, Arc<Gathered>>,
    /// Oldest first.
    ended: VecDeque<(TaskId, Arc<Gathered>)>,
    ended_bytes: usize,
}

/// A log that nobody sees yet: another worker may get the attempt. Dropped, nobody ever will.
pub(crate) struct Unclaimed(oneshot::Sender<()>);

impl Unclaimed {
    pub(crate) fn show(self) {
        // Where nobody waits for it any more, the process ends.
        let _ = self.0.send(());
    }
}

struct Gathered {
    text: Mutex<Text>,
    written: Notify,
}

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    left_out: usize,
    /// The last of what was sent.
    sent: String,
    /// Where that ends.
    end: Position,
    /// There is no more to come.
    is_over: bool,
}

impl LiveLogs {
    /// Where the pieces of one attempt's function go. They are seen when the attempt is claimed. It ends, and sends what
    /// is left, when the sink is dropped.
    pub(crate) fn sink(&self, live: &Live, id: TaskId, attempt: i32) -> (OutputSink, Unclaimed) {
        let end = Position { attempt: attempt.unsigned_abs(), bytes: 0 };
        let text = Mutex::new(Text { end, ..Text::default() });
        let gathered = Arc::new(Gathered { text, written: Notify::new() });
        let over = CancellationToken::new();
        let (logs, lines) = (self.clone(), live.task_log(id));
        let (from, until) = (Arc::clone(&gathered), over.clone());
        let (claim, claimed) = oneshot::channel();
        tokio::spawn(async move {
            if claimed.await.is_err() {
                return;
            }
            logs.logs().of.insert(id, Arc::clone(&from));
            send(lines, &from, until).await;
            logs.logs().ended(id, from);
        });
        let until_dropped: DropGuard = over.drop_guard();
        let sink = OutputSink::new(move |piece| {
            let _ = &until_dropped;
            gathered.push(piece);
        });
        (sink, Unclaimed(claim))
    }

    /// Answers those who come late, for as long as the process runs.
    pub(crate) async fn listen(self, live: Live) {
        loop {
            match live.late_followers().await {
                Ok(followers) => {
                    let mut followers = std::pin::pin!(followers);
                    while let Some(follower) = followers.next().await {
                        let log = self.logs().of.get(&follower.task).cloned();
                        let Some(log) = log else { continue };
                        let (text, end, is_over) = log.so_far();
                        // Another worker may have a newer attempt.
                        if end.attempt >= follower.attempt {
                            follower.answer(text, end, is_over).await;
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "who follows a log late is not heard"),
            }
            tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
        }
    }

    fn logs(&self) -> MutexGuard<'_, Logs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logs {
    fn ended(&mut self, id: TaskId, log: Arc<Gathered>) {
        self.ended_bytes += log.shrink();
        self.ended.push_back((id, log));
        while (self.ended.len() > ENDED_LOGS || self.ended_bytes > ENDED_BYTES)
            && let Some((id, oldest)) = self.ended.pop_front()
        {
            self.ended_bytes -= oldest.shrink();
            // Unless a newer attempt has taken its place.
            if self.of.get(&id).is_some_and(|current| Arc::ptr_eq(current, &oldest)) {
                self.of.remove(&id);
            }
        }
    }
}

async fn send(lines: LiveLines, gathered: &Gathered, over: CancellationToken) {
    let mut is_over = false;
    while !is_over {
        tokio::select! {
            () = gathered.written.notified() => {}
            () = over.cancelled() => {}
        }
        // Its last words are not gathered for: the task's end may be told at once.
        let gather = tokio::time::timeout(GATHER, over.cancelled());
        is_over = gather.await.is_ok();
        let (begin, text) = gathered.text().take(is_over);
        if is_over {
            lines.send_last_at(begin, text).await;
        } else if !text.is_empty() {
            lines.send_at(begin, text).await;
        }
    }
}

impl Gathered {
    fn push(&self, piece: &[u8]) {
        self.text().push(piece);
        self.written.notify_one();
    }

    /// The last of what was sent, where it ends, and whether that is all.
    fn so_far(&self) -> (String, Position, bool) {
        let text = self.text();
        (text.sent.clone(), text.end, text.is_over)
    }

    /// To what was sent, whose bytes it returns.
    fn shrink(&self) -> usize {
        let mut text = self.text();
        text.sent.shrink_to_fit();
        text.sent.len()
    }

    fn text(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Text {
    fn push(&mut self, piece: &[u8]) {
        let room = MAX_BYTES.saturating_sub(self.bytes.len()).min(piece.len());
        self.bytes.extend_from_slice(&piece[..room]);
        self.left_out += piece.len() - room;
    }

    /// What is there, and where it begins; the beginning of a character waits for the rest of it.
    fn take(&mut self, is_over: bool) -> (Position, String) {
        let unfinished = match std::str::from_utf8(&self.bytes) {
            Err(error) if !is_over && self.left_out == 0 && error.error_len().is_none() => {
                self.bytes.split_off(error.valid_up_to())
            }
            _ => Vec::new(),
        };
        let bytes = std::mem::replace(&mut self.bytes, unfinished);
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            text.push_str(&format!(
                "\n[... {left_out} bytes left out here; the log has them ...]\n"
            ));
        }
        self.is_over = is_over;
        let begin = self.end;
        self.end.bytes += text.len() as u64;
        self.sent.push_str(&text);
        let too_much = self.sent.len().saturating_sub(MAX_BYTES);
        self.sent.drain(..self.sent.ceil_char_boundary(too_much));
        (begin, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_not_torn_and_too_much_is_left_out_with_a_note() {
        let mut text = Text::default();
        let two = "aä".as_bytes();
        text.push(&two[..2]);
        assert_eq!(text.take(false).1, "a");
        text.push(&two[2..]);
        assert_eq!(text.take(false).1, "ä");
        text.push(&two[..2]);
        assert_eq!(text.take(true).1, "a\u{fffd}");
        text.push(b"\xff!");
        assert_eq!(
            text.take(false).1,
            "\u{fffd}!",
            "what never becomes a character is not waited for"
        );
        text.push(&vec![b'x'; MAX_BYTES + 7]);
        let (_, taken) = text.take(false);
        assert!(taken.ends_with("x\n[... 7 bytes left out here; the log has them ...]\n"));
        assert_eq!(text.take(true).1, "");
    }

    #[test]
    fn the_last_of_what_was_sent_is_there_for_who_comes_late() {
        let mut text = Text { end: Position { attempt: 2, bytes: 0 }, ..Text::default() };
        text.push("ä".repeat(MAX_BYTES / 2 - 1).as_bytes());
        text.push(b"b");
        let (first, taken) = text.take(false);
        assert_eq!((first.bytes, taken.len()), (0, MAX_BYTES - 1));
        text.push(b"cd");
        let (second, taken) = text.take(false);
        assert_eq!((second.attempt, second.bytes, taken.as_str()), (2, MAX_BYTES as u64 - 1, "cd"));
        assert_eq!(text.end.bytes, MAX_BYTES as u64 + 1);
        assert!(text.sent.len() == MAX_BYTES - 1 && text.sent.starts_with('ä'));
        assert!(text.sent.ends_with("bcd"));
    }

    fn gathered(sent: String) -> Arc<Gathered> {
        let text = Mutex::new(Text { sent, ..Text::default() });
        Arc::new(Gathered { text, written: Notify::new() })
    }

    #[test]
    fn logs_that_have_ended_are_kept_for_a_while_within_a_number_and_bytes() {
        let mut logs = Logs::default();
        let mut end = |text: String| {
            let (id, log) = (TaskId::new(), gathered(text));
            logs.of.insert(id, Arc::clone(&log));
            logs.ended(id, log);
            (id, logs.of.keys().copied().collect::<Vec<_>>(), logs.ended_bytes)
        };
        let (first, kept, _) = end("x".to_owned());
        assert_eq!(kept, [first]);
        let (second, ..) = end("y".to_owned());
        for _ in 2..ENDED_LOGS {
            end(String::new());
        }
        let (_, kept, bytes) = end(String::new());
        assert!(kept.len() == ENDED_LOGS && bytes == 1);
        assert!(!kept.contains(&first) && kept.contains(&second));
        for _ in 0..=ENDED_BYTES / MAX_BYTES {
            end("z".repeat(MAX_BYTES));
        }
        let (last, kept, bytes) = end(String::new());
        assert!(kept.contains(&last) && !kept.contains(&second) && bytes <= ENDED_BYTES);
    }

    #[test]
    fn a_newer_attempts_log_stays_when_the_one_before_is_forgotten() {
        let mut logs = Logs::default();
        let (id, newer) = (TaskId::new(), gathered("newer".to_owned()));
        logs.of.insert(id, Arc::clone(&newer));
        logs.ended(id, gathered("older".to_owned()));
        for _ in 0..ENDED_LOGS {
            logs.ended(TaskId::new(), gathered(String::new()));
        }
        assert!(Arc::ptr_eq(&logs.of[&id], &newer));
    }
}
