//! What a function writes, to onlookers while it runs: gathered for a moment, within a limit, and never waited for.
//! All of it is kept on S3 at the end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mecapy_bus::LiveLines;
use mecapy_engine::OutputSink;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// One message for what is written within this time.
const GATHER: Duration = Duration::from_millis(50);
/// And no more than this in it; the rest is left out, with a note.
const MAX_BYTES: usize = 64 * 1024;

#[derive(Default)]
struct Gathered {
    text: Mutex<Text>,
    written: Notify,
}

#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
    left_out: usize,
}

/// Where a function's pieces go. It ends, and sends what is left, when the sink is dropped.
pub(crate) fn sink(lines: LiveLines) -> OutputSink {
    let gathered = Arc::new(Gathered::default());
    let over = CancellationToken::new();
    tokio::spawn(send(lines, Arc::clone(&gathered), over.clone()));
    let until_dropped: DropGuard = over.drop_guard();
    OutputSink::new(move |piece| {
        let _ = &until_dropped;
        gathered.push(piece);
    })
}

async fn send(lines: LiveLines, gathered: Arc<Gathered>, over: CancellationToken) {
    let mut is_over = false;
    while !is_over {
        tokio::select! {
            () = gathered.written.notified() => {}
            () = over.cancelled() => is_over = true,
        }
        if !is_over {
            tokio::time::sleep(GATHER).await;
        }
        let text = gathered.text().take(is_over);
        if !text.is_empty() {
            lines.send(text).await;
        }
    }
}

impl Gathered {
    fn push(&self, piece: &[u8]) {
        self.text().push(piece);
        self.written.notify_one();
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

    /// What is there; the beginning of a character waits for the rest of it.
    fn take(&mut self, is_over: bool) -> String {
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
        text
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
        assert_eq!(text.take(false), "a");
        text.push(&two[2..]);
        assert_eq!(text.take(false), "ä");
        text.push(&two[..2]);
        assert_eq!(text.take(true), "a\u{fffd}");
        text.push(b"\xff!");
        assert_eq!(
            text.take(false),
            "\u{fffd}!",
            "what never becomes a character is not waited for"
        );
        text.push(&vec![b'x'; MAX_BYTES + 7]);
        let taken = text.take(false);
        assert!(taken.ends_with("x\n[... 7 bytes left out here; the log has them ...]\n"));
        assert_eq!(text.take(true), "");
    }
}
