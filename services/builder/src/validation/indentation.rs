//! Tabs and spaces as CPython's tokenizer weighs them.
//!
//! It measures an indentation twice, with tabs to the next multiple of 8 and with tabs of 1, and two
//! lines must compare alike both ways. The parser's own lexer takes 2 for 8 and lets some mixes pass.

use mecapy_proto::ErrorCode;
use ruff_python_ast::token::{TokenKind, Tokens};
use ruff_text_size::{Ranged, TextSize};

use super::syntax::at;
use crate::rejection::Rejection;

/// The two widths of an indentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Width {
    tabs_of_8: usize,
    tabs_of_1: usize,
}

impl Width {
    /// None: it holds something else, a continued line, which is left to the parser.
    fn of(indentation: &str) -> Option<Self> {
        let mut width = Self::default();
        for c in indentation.chars() {
            width = match c {
                ' ' => Self { tabs_of_8: width.tabs_of_8 + 1, tabs_of_1: width.tabs_of_1 + 1 },
                '\t' => Self {
                    tabs_of_8: (width.tabs_of_8 / 8 + 1) * 8,
                    tabs_of_1: width.tabs_of_1 + 1,
                },
                '\u{c}' => Self::default(),
                _ => return None,
            };
        }
        Some(width)
    }
}

pub fn check(source: &str, tokens: &Tokens) -> Result<(), Rejection> {
    if !source.contains('\t') {
        return Ok(());
    }
    let mut open = vec![Width::default()];
    let mut starts_line = true;
    for token in tokens {
        match token.kind() {
            TokenKind::Newline => starts_line = true,
            TokenKind::NonLogicalNewline
            | TokenKind::Comment
            | TokenKind::Indent
            | TokenKind::Dedent
            | TokenKind::EndOfFile => {}
            _ if starts_line => {
                starts_line = false;
                let before = &source[..token.start().to_usize()];
                let line = before.rfind(['\n', '\r']).map_or(0, |end| end + 1);
                if let Some(width) = Width::of(&before[line..])
                    && !is_consistent(&mut open, width)
                {
                    let what = "Inconsistent use of tabs and spaces in indentation";
                    return Err(at(source, offset(line), ErrorCode::SyntaxError, what));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn offset(at: usize) -> TextSize {
    TextSize::try_from(at).unwrap_or_default()
}

/// Opens or closes blocks as the line's width says.
fn is_consistent(open: &mut Vec<Width>, width: Width) -> bool {
    while open.len() > 1 && open.last().is_some_and(|top| width.tabs_of_8 < top.tabs_of_8) {
        open.pop();
    }
    let top = open.last().copied().unwrap_or_default();
    if width.tabs_of_8 > top.tabs_of_8 {
        open.push(width);
        return width.tabs_of_1 > top.tabs_of_1;
    }
    width == top
}

#[cfg(test)]
mod tests {
    use ruff_python_ast::PythonVersion;

    use super::super::{Rules, check as check_source};

    fn is_accepted(source: &str) -> bool {
        check_source(source.as_bytes(), PythonVersion::PY311, &Rules::default()).is_ok()
    }

    #[test]
    fn what_depends_on_the_width_of_a_tab_is_refused() {
        assert!(!is_accepted("if a:\n        b\n\tc\n"));
        assert!(!is_accepted("if a:\n    b\n    if c:\n    \t    d\n\te\n"));
        assert!(!is_accepted("if a:\n    \t        class B:\n                pass\n"));
    }

    #[test]
    fn tabs_that_mean_one_thing_are_fine() {
        for source in [
            "if a:\n\tb\n\tif c:\n\t\td\n\te\n",
            "if a:\n  b\n  if c:\n  \td\n",
            "if a:\n\tb = [\n  1,\n\t\t2]\n\t# c\n  # d\n\te\n",
            "x = '''\n \t a\n\t b'''\n",
            "if a:\n\u{c}\tb\n\tc\n",
            "x = 1\t# a tab elsewhere\n",
        ] {
            assert!(is_accepted(source), "{source:?}");
        }
    }
}
