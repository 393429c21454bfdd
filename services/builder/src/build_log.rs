//! The log of one build: what the user sees live and keeps.
//!
//! It has a limit, and no secret gets into it: every line is cleaned before it goes anywhere.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mecapy_service::Secret;

/// Lines kept for an error.
const TAIL_LINES: usize = 20;
/// Longest line, in bytes.
const MAX_LINE: usize = 4 * 1024;

/// Begins the line between two tries of a build.
const ANOTHER_TRY: &str = "--- the try before did not end it: try ";

/// Gets each line as it is written. Must not block.
pub type Live = Box<dyn Fn(&str) + Send + Sync>;

/// Cheap to clone; clones write to the same log.
#[derive(Clone)]
pub struct BuildLog(Arc<Inner>);

struct Inner {
    live: Live,
    secrets: Vec<Secret>,
    max_bytes: usize,
    text: Mutex<Text>,
}

#[derive(Default)]
struct Text {
    whole: String,
    tail: VecDeque<String>,
    is_cut: bool,
}

impl fmt::Debug for BuildLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BuildLog")
    }
}

impl BuildLog {
    /// At most `max_bytes` are kept and shown; of `secrets` nothing is.
    pub fn new(max_bytes: usize, secrets: Vec<Secret>, live: Live) -> Self {
        // The longest first: one secret may be part of another.
        let mut secrets: Vec<Secret> =
            secrets.into_iter().filter(|secret| !secret.expose().is_empty()).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        Self(Arc::new(Inner { live, secrets, max_bytes, text: Mutex::default() }))
    }

    /// Writes a text of one line or more.
    pub fn write(&self, text: &str) {
        for line in text.lines() {
            self.line(line);
        }
    }

    fn line(&self, line: &str) {
        let line = self.clean(line);
        let mut text = self.0.text.lock().unwrap_or_else(PoisonError::into_inner);
        if text.tail.len() == TAIL_LINES {
            text.tail.pop_front();
        }
        text.tail.push_back(line.clone());
        if text.is_cut {
            return;
        }
        let line = if text.whole.len() + line.len() < self.0.max_bytes {
            line
        } else {
            text.is_cut = true;
            format!("[the log is cut here: it has more than {} bytes]", self.0.max_bytes)
        };
        text.whole.push_str(&line);
        text.whole.push('\n');
        drop(text);
        (self.0.live)(&line);
    }

    /// The line with every secret starred out, for whoever makes a message of it.
    pub fn without_secrets(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for secret in &self.0.secrets {
            if line.contains(secret.expose()) {
                line = line.replace(secret.expose(), "***");
            }
        }
        line
    }

    fn clean(&self, line: &str) -> String {
        let mut line = self.without_secrets(line);
        line.retain(|c| !c.is_control() || c == '\t');
        if line.len() > MAX_LINE {
            line.truncate(line.floor_char_boundary(MAX_LINE));
            line.push('…');
        }
        line
    }

    /// Puts what an earlier try of the same build wrote before the lines of this one, which has none yet. Onlookers have
    /// seen it. Of a long one the end stays, so that there is room.
    pub fn go_on_after(&self, earlier: &str) {
        let room = self.0.max_bytes / 2;
        let start = earlier.ceil_char_boundary(earlier.len().saturating_sub(room));
        let kept = match earlier[start..].split_once('\n') {
            Some((_, whole_lines)) if start > 0 => whole_lines,
            _ => &earlier[start..],
        };
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).whole = kept.to_owned();
        let before = earlier.rsplit_once(ANOTHER_TRY).and_then(|(_, last)| last.split_once(' '));
        let before: u64 = before.and_then(|(number, _)| number.parse().ok()).unwrap_or(1);
        self.line(&format!("{ANOTHER_TRY}{} ---", before.saturating_add(1)));
    }

    /// Bytes of all of it, so far.
    pub fn length(&self) -> usize {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).whole.len()
    }

    /// All of it, so far.
    pub fn text(&self) -> String {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).whole.clone()
    }

    /// The last lines, also those after a cut.
    pub fn tail(&self) -> Vec<String> {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner).tail.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(max_bytes: usize, secrets: &[&str]) -> (BuildLog, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let live = Arc::clone(&seen);
        let secrets = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        let log = BuildLog::new(
            max_bytes,
            secrets,
            Box::new(move |line| live.lock().unwrap().push(line.to_owned())),
        );
        (log, seen)
    }

    #[test]
    fn lines_are_seen_live_and_kept() {
        let (log, seen) = log(1000, &[]);
        log.write("one\ntwo\n");
        log.clone().write("three");
        assert_eq!(log.text(), "one\ntwo\nthree\n");
        assert_eq!(*seen.lock().unwrap(), ["one", "two", "three"]);
        assert_eq!(log.tail(), ["one", "two", "three"]);
    }

    #[test]
    fn a_secret_is_nowhere() {
        let (log, seen) = log(1000, &["", "hunter2", "user:hunter2"]);
        log.write("fetching https://user:hunter2@index/simple with hunter2");
        assert_eq!(log.text(), "fetching https://***@index/simple with ***\n");
        assert!(!seen.lock().unwrap().concat().contains("hunter2"));
        assert!(!log.tail().concat().contains("hunter2"));
    }

    #[test]
    fn a_long_log_ends_with_a_note_and_the_tail_goes_on() {
        let (log, seen) = log(100, &[]);
        for i in 0..1000 {
            log.write(&format!("line {i}"));
        }
        assert!(log.text().len() < 200);
        assert!(log.text().ends_with("[the log is cut here: it has more than 100 bytes]\n"));
        assert_eq!(seen.lock().unwrap().len(), log.text().lines().count());
        assert_eq!(log.tail().last().unwrap(), "line 999");
        log.write(&"é".repeat(10_000));
        assert!(log.tail().last().unwrap().len() < MAX_LINE + 10);
    }

    #[test]
    fn another_try_goes_on_after_the_one_before() {
        let (first, seen) = log(1000, &[]);
        first.go_on_after("one\ntwo\n");
        first.write("three");
        let mark = "--- the try before did not end it: try 2 ---";
        assert_eq!(first.text(), format!("one\ntwo\n{mark}\nthree\n"));
        assert_eq!(*seen.lock().unwrap(), [mark, "three"]);
        // Whole lines of its end, and room for more.
        let (next, _) = log(1000, &[]);
        next.go_on_after(&format!("{}{mark}\n", "é line\n".repeat(1000)));
        next.write("last");
        let text = next.text();
        assert!(text.len() < 700 && text.starts_with("é line\n"), "{text}");
        assert!(text.ends_with("try 3 ---\nlast\n"), "{text}");
    }

    #[test]
    fn control_characters_are_left_out() {
        let (log, _) = log(1000, &[]);
        log.write("a\u{1b}[31mb\u{7}\tc");
        assert_eq!(log.text(), "a[31mb\tc\n");
    }
}
