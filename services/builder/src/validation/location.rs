//! Where in a source something is, as an editor shows it.

use std::fmt;

use ruff_text_size::TextSize;

/// Longest part of a source line that is quoted, in characters.
const MAX_QUOTED: usize = 160;

/// A place in a source. `Display` prints the line with a mark below the column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    text: String,
}

impl Location {
    pub fn of(source: &str, offset: TextSize) -> Self {
        let mut offset = offset.to_usize().min(source.len());
        while !source.is_char_boundary(offset) {
            offset -= 1;
        }
        let (before, after) = source.split_at(offset);
        let line = line_breaks(before);
        let start = before.rfind(['\n', '\r']).map_or(0, |at| at + 1);
        let end = offset + after.find(['\n', '\r']).unwrap_or(after.len());
        Self {
            line: line + 1,
            column: source[start..offset].chars().count() + 1,
            text: source[start..end].to_owned(),
        }
    }
}

/// `\n`, `\r\n` and a lone `\r` each end a line, as in CPython.
fn line_breaks(text: &str) -> usize {
    let mut breaks = 0;
    let mut previous = b' ';
    for byte in text.bytes() {
        breaks += usize::from(byte == b'\r' || (byte == b'\n' && previous != b'\r'));
        previous = byte;
    }
    breaks
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of a very long line only the part around the column is of use.
        let from = (self.column - 1).saturating_sub(MAX_QUOTED / 2);
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let quoted: String = self.text.chars().skip(from).take(MAX_QUOTED).map(printable).collect();
        let (quoted, cut) = match quoted.trim_start() {
            trimmed if from == 0 => (trimmed, quoted.chars().count() - trimmed.chars().count()),
            _ => (quoted.as_str(), 0),
        };
        let mark = (self.column - 1 - from).saturating_sub(cut);
        write!(f, "    {}\n    {}^", quoted.trim_end(), " ".repeat(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(source: &str, offset: usize) -> Location {
        Location::of(source, TextSize::try_from(offset).unwrap())
    }

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        let location = at("x = 1\n  é = ?\n", "x = 1\n  é = ".len());
        assert_eq!((location.line, location.column), (2, 7));
        assert_eq!(location.to_string(), "    é = ?\n        ^");
    }

    #[test]
    fn every_line_end_of_python_counts_once() {
        assert_eq!(at("a\r\nb\rc\nd", 7).line, 4);
        assert_eq!(at("a\r\n", 3).line, 2);
    }

    #[test]
    fn of_a_long_line_only_the_part_around_the_mark_is_quoted() {
        let source = format!("{}?{}", "a".repeat(100_000), "b".repeat(100_000));
        let shown = at(&source, 100_000).to_string();
        assert!(shown.len() < 400, "{shown}");
        let mark = shown.lines().nth(1).unwrap().find('^').unwrap();
        assert_eq!(shown.lines().next().unwrap().as_bytes()[mark], b'?');
    }

    #[test]
    fn an_offset_past_the_end_or_inside_a_character_is_no_panic() {
        assert_eq!(at("é", 1).column, 1);
        assert_eq!(at("", 9).column, 1);
    }
}
