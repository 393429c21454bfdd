//! What users and programs wrote, as it can be shown. That markup in it is text is for the templates; here goes what
//! acts on a terminal, turns the direction of reading or can't be seen, and what is too much for a page.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use chrono::{DateTime, Utc};

/// A name, a message.
const MAX_LINE: usize = 300;
/// Of a log.
const MAX_LOG_LINE: usize = 2_000;
/// Of a log, the last so many bytes stand in a page; all of it is a download.
const MAX_TAIL: usize = 128 * 1024;

/// Something short: one line.
pub(super) fn line(text: &str) -> String {
    let shown = clean(text.get(..text.floor_char_boundary(8 * MAX_LINE)).unwrap_or_default());
    cut(&shown.replace(['\n', '\t'], " "), MAX_LINE)
}

/// Several lines, each of bounded length.
pub(super) fn block(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(MAX_TAIL));
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            shown.push('\n');
        }
        // Before it is cleaned: a line may have megabytes.
        let bounded = &line[..line.floor_char_boundary(8 * MAX_LOG_LINE)];
        let mut cleaned = cut(&clean(bounded), MAX_LOG_LINE);
        if bounded.len() < line.len() {
            let _ = write!(cleaned, " (of {} bytes)", line.len());
        }
        shown.push_str(&cleaned);
    }
    shown
}

/// The end of a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub text: String,
    /// Bytes before it.
    pub left_out: usize,
}

pub(super) fn tail(log: &[u8]) -> Tail {
    let mut from = log.len().saturating_sub(MAX_TAIL);
    // From the next line on, unless that is far.
    if from > 0
        && let Some(end) = log[from..].iter().take(MAX_LOG_LINE).position(|byte| *byte == b'\n')
    {
        from += end + 1;
    }
    Tail { text: block(&String::from_utf8_lossy(&log[from..])), left_out: from }
}

/// A piece of a log that runs: what does not fit is in the log that is stored.
pub(super) fn piece(text: &str) -> String {
    const MAX: usize = 16 * 1024;
    let from = text.ceil_char_boundary(text.len().saturating_sub(MAX));
    block(&text[from..])
}

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

fn clean(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\n' | '\t' => shown.push(character),
            '\r' => {}
            '\u{1b}' => skip_sequence(&mut characters),
            '\u{9b}' => skip_control(&mut characters),
            '\0'..='\u{1f}' => {
                shown.push(char::from_u32(0x2400 + u32::from(character)).unwrap_or('\u{fffd}'));
            }
            '\u{7f}' => shown.push('\u{2421}'),
            '\u{80}'..='\u{9f}' => shown.push('\u{fffd}'),
            // Without width, or turning the direction: a name could look like another's.
            '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}' => {
                let _ = write!(shown, "⟨U+{:04X}⟩", u32::from(character));
            }
            other => shown.push(other),
        }
    }
    shown
}

/// What follows an escape.
fn skip_sequence(characters: &mut Peekable<Chars<'_>>) {
    match characters.peek() {
        Some('[') => {
            characters.next();
            skip_control(characters);
        }
        // Texts for the terminal, such as its title: up to a bell, or an escape and a backslash.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(next) = characters.next_if(|next| *next != '\n') {
                if next == '\u{7}' {
                    return;
                }
                if next == '\u{1b}' {
                    characters.next_if_eq(&'\\');
                    return;
                }
            }
        }
        Some(' '..='~') => {
            characters.next();
        }
        _ => {}
    }
}

/// Parameters, and the letter that ends them.
fn skip_control(characters: &mut Peekable<Chars<'_>>) {
    while characters.next_if(|next| (' '..='?').contains(next)).is_some() {}
    characters.next_if(|next| ('@'..='~').contains(next));
}

/// `0.8 s`, `42 s`, `3 min 5 s`, `2 h 5 min`, `12 d 3 h`; below a second in milliseconds.
pub(super) fn duration(ms: f64) -> String {
    if ms < 10.0 {
        return format!("{:.1} ms", ms.max(0.0));
    }
    if ms < 1_000.0 {
        return format!("{ms:.0} ms");
    }
    if ms < 10_000.0 {
        return format!("{:.1} s", ms / 1_000.0);
    }
    let seconds = (ms / 1_000.0).round() as u64;
    let two = |large: u64, of: &str, small: u64, and: &str| match small {
        0 => format!("{large} {of}"),
        _ => format!("{large} {of} {small} {and}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// Between two moments.
pub(super) fn between(from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    duration((to - from).num_milliseconds() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_of_terminals_are_gone_and_what_they_coloured_is_there() {
        assert_eq!(block("\u{1b}[31mred\u{1b}[0m \u{1b}[2K\u{1b}[1;1Hplain"), "red plain");
        assert_eq!(block("\u{1b}]0;title\u{7}after"), "after");
        assert_eq!(block("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\"), "link");
        assert_eq!(block("\u{9b}31mred"), "red");
        assert_eq!(block("\u{1b}]0;without an end\nnext line"), "\nnext line");
        assert_eq!(block("at the end \u{1b}"), "at the end ");
        assert_eq!(block("\u{1b}["), "");
        assert_eq!(block("\u{1b}(Bafter"), "Bafter");
    }

    #[test]
    fn what_cannot_be_seen_is_shown() {
        assert_eq!(line("a\0b\u{7f}c\u{85}"), "a\u{2400}b\u{2421}c\u{fffd}");
        assert_eq!(line("user\u{202e}gnp.exe"), "user⟨U+202E⟩gnp.exe");
        assert_eq!(line("a\u{200b}b"), "a⟨U+200B⟩b");
        assert_eq!(line("two\r\nlines\tand more"), "two lines and more");
        assert_eq!(line("Zürich 東京 🙂"), "Zürich 東京 🙂");
    }

    #[test]
    fn markup_is_left_to_the_templates() {
        assert_eq!(line("<script>\"'&"), "<script>\"'&");
    }

    #[test]
    fn a_line_of_ten_megabytes_takes_little() {
        let long = "x".repeat(10_000_000);
        let shown = block(&long);
        assert!(shown.len() < 3_000 && shown.ends_with("… (of 10000000 bytes)"), "{}", shown.len());
        assert!(line(&long).chars().count() == MAX_LINE + 1);
        let tail = tail(long.as_bytes());
        assert_eq!(tail.left_out, 10_000_000 - MAX_TAIL);
        assert!(tail.text.len() < 3_000);
        assert!(piece(&long).len() < 3_000);
    }

    #[test]
    fn a_tail_begins_with_a_line() {
        let log: String = (0..50_000).map(|number| format!("line {number}\n")).collect();
        let tail = tail(log.as_bytes());
        assert!(tail.text.starts_with("line ") && tail.text.ends_with("line 49999\n"));
        assert!(tail.left_out > 0 && log.as_bytes()[tail.left_out - 1] == b'\n');
        assert_eq!(super::tail(b"short\n"), Tail { text: "short\n".into(), left_out: 0 });
        assert_eq!(super::tail(b"\xff\xfe"), Tail { text: "\u{fffd}\u{fffd}".into(), left_out: 0 });
    }

    #[test]
    fn durations_read_easily() {
        for (ms, text) in [
            (-1.0, "0.0 ms"),
            (3.26, "3.3 ms"),
            (812.4, "812 ms"),
            (1_240.0, "1.2 s"),
            (42_300.0, "42 s"),
            (185_000.0, "3 min 5 s"),
            (7_500_000.0, "2 h 5 min"),
            (1_047_600_000.0, "12 d 3 h"),
            (3_600_000.0, "1 h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
