//! The build's output as lines: cut from the pieces that the engine sends, without terminal codes,
//! each within a length.

use std::collections::VecDeque;
use std::sync::Arc;

/// A line longer than this comes in several pieces.
const LINE_BYTES: usize = 16 * 1024;
/// How many of the last lines go into an error.
const TAIL_LINES: usize = 40;

/// Where a build's lines go, one call a line, in order, without the newline. Called between two reads
/// of the engine's stream, so it must not block.
#[derive(Clone)]
pub struct LogSink(Arc<dyn Fn(&str) + Send + Sync>);

impl LogSink {
    pub fn new(line: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(line))
    }

    pub fn discard() -> Self {
        Self::new(|_| {})
    }
}

impl std::fmt::Debug for LogSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogSink")
    }
}

/// Cuts lines, passes them on and remembers the last ones and the containers of the steps.
pub(crate) struct BuildLog {
    sink: LogSink,
    line: String,
    tail: VecDeque<String>,
    containers: Vec<String>,
}

impl BuildLog {
    pub(crate) fn new(sink: LogSink) -> Self {
        Self { sink, line: String::new(), tail: VecDeque::new(), containers: Vec::new() }
    }

    /// Takes one message of the engine in.
    pub(crate) fn push(&mut self, text: &str) {
        let step_begins = text.strip_prefix(" ---> Running in ");
        if let Some(id) = step_begins {
            self.containers.push(id.trim_end().to_owned());
        }
        // What a step wrote last may have had no newline; the engine's own words begin a line.
        let engine_speaks = step_begins.is_some() || text.starts_with("Removing intermediate ");
        if engine_speaks && !self.line.is_empty() {
            self.end_line();
        }
        for piece in text.split_inclusive('\n') {
            let (piece, ends) = match piece.strip_suffix('\n') {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            for part in parts(piece, LINE_BYTES) {
                if self.line.len() + part.len() > LINE_BYTES {
                    self.end_line();
                }
                self.line.push_str(part);
            }
            if ends {
                self.end_line();
            }
        }
    }

    /// Ends a line that had no newline, and returns the last lines.
    pub(crate) fn finish(mut self) -> Vec<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.tail.into()
    }

    /// Did the log name this container as one of the build's steps? A step could print the name of
    /// another container, so this is good enough to blame this build, and for nothing else.
    pub(crate) fn names_container(&self, id: &str) -> bool {
        self.containers.iter().any(|short| short.len() >= 12 && id.starts_with(short))
    }

    fn end_line(&mut self) {
        let line = plain(&std::mem::take(&mut self.line));
        (self.sink.0)(&line);
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

/// The text in parts of at most `limit` bytes, cut between characters.
fn parts(mut text: &str, limit: usize) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (part, rest) = text.split_at(text.floor_char_boundary(limit));
        text = rest;
        (!part.is_empty()).then_some(part)
    })
}

/// Without escape sequences (the engine colours stderr) and with what a carriage return leaves
/// visible.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    // A control sequence ends with a byte of 0x40 to 0x7e.
                    chars.by_ref().find(|c| ('@'..='~').contains(c));
                }
            }
            '\r' if chars.as_str().is_empty() => {}
            '\r' => plain.clear(),
            '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn lines_of(pieces: &[&str]) -> (Vec<String>, Vec<String>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        let mut log =
            BuildLog::new(LogSink::new(move |line| kept.lock().unwrap().push(line.to_owned())));
        for piece in pieces {
            log.push(piece);
        }
        let tail = log.finish();
        (lines.lock().unwrap().clone(), tail)
    }

    #[test]
    fn pieces_become_whole_lines() {
        let (lines, _) = lines_of(&["Step 1/2 : FROM a", "\n", " ---> 12", "34\nlast"]);
        assert_eq!(lines, ["Step 1/2 : FROM a", " ---> 1234", "last"]);
    }

    #[test]
    fn terminal_codes_and_overwritten_progress_are_gone() {
        let (lines, _) =
            lines_of(&["\u{1b}[91mred\u{1b}[0m\r\n", " 1%\r 2%\r 3%\n", "a\tb\u{7}\n"]);
        assert_eq!(lines, ["red", " 3%", "a\tb"]);
    }

    #[test]
    fn an_endless_line_comes_in_pieces_and_the_tail_stays_short() {
        let long = "é".repeat(LINE_BYTES);
        let (lines, _) = lines_of(&[&long, "\n"]);
        assert!(lines.iter().all(|line| line.len() <= LINE_BYTES));
        assert_eq!(lines.concat(), long);
        let many = "x\n".repeat(TAIL_LINES * 2);
        let (lines, tail) = lines_of(&[&many]);
        assert_eq!((lines.len(), tail.len()), (TAIL_LINES * 2, TAIL_LINES));
    }

    #[test]
    fn the_engines_words_begin_a_line_of_their_own() {
        let (lines, _) = lines_of(&["no newline", "Removing intermediate container 12\n"]);
        assert_eq!(lines, ["no newline", "Removing intermediate container 12"]);
    }

    #[test]
    fn containers_of_steps_are_known_by_their_message() {
        let mut log = BuildLog::new(LogSink::discard());
        log.push(" ---> Running in 0123456789ab\n");
        log.push(" ---> Running in \n");
        assert!(log.names_container("0123456789abcdef"));
        assert!(!log.names_container("ffff"));
    }
}
