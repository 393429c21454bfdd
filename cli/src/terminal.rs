//! What is printed, and made safe before.
//!
//! Log lines, names and results come from users. On a terminal their control characters could move the cursor,
//! rewrite what was shown, or change the window's title; marks of writing direction could make code look like
//! other code. So none of them gets there.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use crate::{exit, json};

/// Where results go: standard output. Everything else goes to standard error.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// The one result of a command: as JSON, or as it reads for a person.
    pub fn show(&self, raw: &str, person: impl FnOnce() -> String) {
        if self.json {
            print(&json::pretty(raw));
        } else {
            print(&clean_text(&person()));
        }
    }

    /// Text as it is: cleaned on a terminal, byte for byte elsewhere.
    pub fn raw(&self, bytes: &[u8]) {
        let out = std::io::stdout();
        write(&mut out.lock(), &clean_for(out.is_terminal(), bytes));
    }

    /// The same for standard error.
    pub fn raw_error(&self, bytes: &[u8]) {
        let out = std::io::stderr();
        write(&mut out.lock(), &clean_for(out.is_terminal(), bytes));
    }

    /// Something to know besides the result.
    pub fn note(&self, text: &str) {
        write(
            &mut std::io::stderr().lock(),
            format!("{}\n", clean_text(text).trim_end()).as_bytes(),
        );
    }

    /// Why a command stops.
    pub fn problem(&self, error: &anyhow::Error) {
        if self.json {
            print(&json::pretty(&exit::as_json(error).to_string()));
        }
        self.note(&format!("error: {error:#}"));
    }

    pub fn is_json(&self) -> bool {
        self.json
    }
}

fn print(text: &str) {
    write(&mut std::io::stdout().lock(), format!("{}\n", text.trim_end_matches('\n')).as_bytes());
}

/// Whoever reads may have gone (`mecapy … | head`): that is no failure.
fn write(to: &mut impl std::io::Write, bytes: &[u8]) {
    let _ = to.write_all(bytes);
    let _ = to.flush();
}

fn clean_for(is_terminal: bool, bytes: &[u8]) -> Cow<'_, [u8]> {
    if is_terminal {
        clean_text(&String::from_utf8_lossy(bytes)).into_bytes().into()
    } else {
        bytes.into()
    }
}

/// One line, with nothing in it that a terminal would act on.
///
/// A bar that redraws itself with carriage returns is left as it looked at the end.
pub fn clean_line(line: &str) -> String {
    let line = line.rsplit(['\r', '\n']).find(|part| !part.is_empty()).unwrap_or_default();
    let mut clean = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut chars),
            '\u{9b}' => skip_control_sequence(&mut chars),
            '\t' => clean.push_str("    "),
            c if is_unsafe(c) => {}
            c => clean.push(c),
        }
    }
    clean
}

/// Several lines, each cleaned.
pub fn clean_text(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        clean.push_str(&clean_line(line.trim_end_matches(['\n', '\r'])));
        if line.ends_with('\n') {
            clean.push('\n');
        }
    }
    clean
}

/// Characters that are not seen, but change how others are.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}')
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// What follows an escape character (ECMA-48).
fn skip_sequence(chars: &mut Chars<'_>) {
    match chars.next() {
        Some('[') => skip_control_sequence(chars),
        // Strings: up to BEL or ESC \, and at most to the end of the line.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || c == '\u{9c}' {
                    break;
                }
                if c == '\u{1b}' {
                    chars.next_if_eq(&'\\');
                    break;
                }
            }
        }
        // Intermediate bytes, then the final one.
        Some(' '..='/') => {
            while chars.next_if(|c| matches!(c, ' '..='/')).is_some() {}
            chars.next();
        }
        _ => {}
    }
}

fn skip_control_sequence(chars: &mut Chars<'_>) {
    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    chars.next_if(|c| matches!(c, '@'..='~'));
}

/// `label  value` lines, aligned.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or_default();
    rows.iter().fold(String::new(), |mut text, (label, value)| {
        let _ = writeln!(text, "{label:width$}  {value}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        for (given, clean) in [
            ("plain ümläut 数", "plain ümläut 数"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]8;;http://x\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}]52;c;never ended", ""),
            ("\u{9b}2Jx", "x"),
            ("\u{1b}(Bx", "x"),
            ("\u{1b}cx", "x"),
            ("a\u{8}\u{7}\u{0}b", "ab"),
            ("a\tb", "a    b"),
            ("if admin:\u{202e} # \u{2066}no", "if admin: # no"),
            ("10%\r20%\r100%", "100%"),
            ("done\r", "done"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
        ] {
            assert_eq!(clean_line(given), clean, "{given:?}");
        }
    }

    #[test]
    fn a_file_gets_every_byte_and_a_terminal_only_what_is_harmless() {
        let bytes = b"a\x1b[31m\xff\n";
        assert_eq!(clean_for(false, bytes).as_ref(), bytes);
        assert_eq!(clean_for(true, bytes).as_ref(), "a\u{fffd}\n".as_bytes());
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(clean_text("a\r\nb\u{1b}[1m\n\nc"), "a\nb\n\nc");
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(
            fields(&[("id", "1".into()), ("status", "ready".into())]),
            "id      1\nstatus  ready\n"
        );
    }
}
