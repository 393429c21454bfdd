//! The syntax verdict, as `ast.parse` of the target version gives it.

use mecapy_proto::ErrorCode;
use ruff_python_ast::{Mod, ModModule, PythonVersion};
use ruff_python_parser::{Mode, ParseOptions, parse_unchecked};
use ruff_text_size::TextSize;

use super::indentation;
use super::location::Location;
use crate::rejection::Rejection;

/// Parses, and hands the tree to `then` if the source has no error. The tree is dropped in here, so
/// that it happens on the caller's (large) stack.
pub fn with_tree(
    source: &str,
    python: PythonVersion,
    then: impl FnOnce(&ModModule) -> Result<(), Rejection>,
) -> Result<(), Rejection> {
    let parsed =
        parse_unchecked(source, ParseOptions::from(Mode::Module).with_target_version(python));
    let broken =
        parsed.errors().iter().map(|e| (e.location.start(), capitalised(&e.error.to_string())));
    let too_new =
        parsed.unsupported_syntax_errors().iter().map(|e| (e.range.start(), e.to_string()));
    // Of several errors the first in the text is the cause, the others often follow from it.
    if let Some((offset, what)) = broken.chain(too_new).min_by_key(|(offset, _)| *offset) {
        return Err(at(source, offset, ErrorCode::SyntaxError, &what));
    }
    indentation::check(source, parsed.tokens())?;
    match parsed.syntax() {
        Mod::Module(module) => then(module),
        Mod::Expression(_) => Ok(()),
    }
}

/// A rejection that shows the place.
pub fn at(source: &str, offset: TextSize, code: ErrorCode, what: &str) -> Rejection {
    let location = Location::of(source, offset);
    let Location { line, column, .. } = &location;
    Rejection::new(code, format!("line {line}, column {column}: {what}\n{location}"))
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(source: &str, minor: u8) -> Result<(), String> {
        with_tree(source, PythonVersion { major: 3, minor }, |_| Ok(())).map_err(|r| r.message)
    }

    #[test]
    fn an_error_shows_its_line_column_and_source() {
        let message = verdict("def f():\n    x = = 1\n", 11).unwrap_err();
        assert!(message.starts_with("line 2, column 9: Expected an expression"), "{message}");
        assert!(message.ends_with("\n    x = = 1\n        ^"), "{message}");
    }

    #[test]
    fn syntax_counts_from_the_version_that_brought_it() {
        let news = [
            ("match x:\n    case 1: pass\n", 10),
            ("try: pass\nexcept* E: pass\n", 11),
            ("type X = int\n", 12),
            ("def f[T](x: T): pass\n", 12),
            ("x = f'{f\"{'a'}\"}'\nx = f'{'a'}'\n", 12),
            ("x = t'{a}'\n", 14),
            ("try: pass\nexcept A, B: pass\n", 14),
        ];
        for (source, since) in news {
            for minor in 9..=14 {
                assert_eq!(verdict(source, minor).is_ok(), minor >= since, "{source} in 3.{minor}");
            }
        }
        assert!(verdict("type X = int\n", 11).unwrap_err().contains("3.11"));
    }
}
