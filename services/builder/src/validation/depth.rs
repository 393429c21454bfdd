//! A bound on how deep the tree of a source can get, from its tokens alone.
//!
//! The parser is iterative for `1+1+1…` and grows its own stack for `((((…`, but whoever walks or
//! drops the tree afterwards recurses: some 490 kB of `-----…1` overflow any ordinary stack and abort
//! the process. So nothing deeper than CPython itself takes gets as far as the parser.
//!
//! Every token that can add a level of its own counts as one (operators, trailers, keywords of
//! expressions); a comma or the end of a statement starts again at nothing; a bracket adds what is
//! inside it. The bound is never below the real depth, and real code stays far from it.

use mecapy_proto::ErrorCode;
use ruff_python_ast::token::TokenKind;
use ruff_python_parser::{Mode, lexer};

use crate::rejection::Rejection;

/// CPython 3.11 stops at about 3,000 levels (three times its recursion limit).
const MAX_DEPTH: usize = 3_000;
/// `MAXLEVEL` of CPython's tokenizer.
const MAX_BRACKETS: usize = 200;
/// `MAXINDENT` of CPython's tokenizer, less the outermost level.
const MAX_INDENTS: usize = 99;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    Depth,
    Brackets,
    Indents,
}

pub fn check(source: &str) -> Result<(), Rejection> {
    let Some(excess) = excess(source) else { return Ok(()) };
    let what = match excess {
        Excess::Depth => format!("an expression is nested more than {MAX_DEPTH} levels deep"),
        Excess::Brackets => "too many nested parentheses".to_owned(),
        Excess::Indents => "too many levels of indentation".to_owned(),
    };
    Err(Rejection::new(ErrorCode::SyntaxError, format!("line {}: {what}", first_bad_line(source))))
}

/// The lexer tells no positions, so the line is searched: the first whose end is already too deep.
fn first_bad_line(source: &str) -> usize {
    let ends: Vec<usize> = source
        .match_indices('\n')
        .map(|(at, _)| at + 1)
        .chain(std::iter::once(source.len()))
        .collect();
    ends.partition_point(|&end| excess(&source[..end]).is_none()) + 1
}

/// One bracket, or the statement itself.
#[derive(Debug, Default)]
struct Level {
    /// Tokens since the last separator that each may add a level.
    chain: usize,
    /// The deepest bracket closed since the last separator.
    deepest: usize,
    /// The deepest of the parts that separators have ended.
    widest: usize,
    /// Lambdas whose colon has not come: their commas separate parameters, which end nothing.
    lambdas: usize,
    /// Literal text with placeholders: each placeholder stands beside the others.
    is_template: bool,
}

impl Level {
    fn depth(&self) -> usize {
        self.chain + 1 + self.deepest
    }

    fn separate(&mut self) {
        self.widest = self.widest.max(self.depth());
        self.chain = 0;
        self.deepest = 0;
    }
}

fn excess(source: &str) -> Option<Excess> {
    let mut lexer = lexer::lex(source, Mode::Module);
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::default();
    // The depth that the enclosing levels add.
    let mut outer_depth = 0;
    let mut indents = 0_usize;
    // Colons of compound statements on this line: `if a: if b: …` is no Python, but gets parsed.
    let mut compounds = 0;
    loop {
        match lexer.next_token() {
            TokenKind::EndOfFile => return None,
            TokenKind::Newline => {
                outer.clear();
                level = Level::default();
                outer_depth = 0;
                compounds = 0;
            }
            TokenKind::Indent => indents += 1,
            TokenKind::Dedent => indents = indents.saturating_sub(1),
            TokenKind::Semi if outer.is_empty() => level.separate(),
            TokenKind::Comma if level.lambdas == 0 => level.separate(),
            TokenKind::Colon if level.lambdas > 0 => level.lambdas -= 1,
            TokenKind::Colon if outer.is_empty() => compounds += 1,
            kind if opens(kind) => {
                if level.is_template {
                    level.separate();
                }
                level.chain += 1;
                outer_depth += level.chain + 1;
                let is_template = matches!(kind, TokenKind::FStringStart | TokenKind::TStringStart);
                outer
                    .push(std::mem::replace(&mut level, Level { is_template, ..Level::default() }));
            }
            kind if closes(kind) => {
                if let Some(parent) = outer.pop() {
                    level.separate();
                    outer_depth -= parent.chain + 1;
                    let inner = std::mem::replace(&mut level, parent).widest;
                    level.deepest = level.deepest.max(inner);
                }
            }
            kind if is_flat(kind) => continue,
            kind => {
                level.lambdas += usize::from(kind == TokenKind::Lambda);
                level.chain += 1;
            }
        }
        if indents > MAX_INDENTS {
            return Some(Excess::Indents);
        }
        if outer.len() > MAX_BRACKETS {
            return Some(Excess::Brackets);
        }
        if outer_depth + level.depth() + compounds + indents > MAX_DEPTH {
            return Some(Excess::Depth);
        }
    }
}

fn opens(kind: TokenKind) -> bool {
    use TokenKind::{FStringStart, Lbrace, Lpar, Lsqb, TStringStart};
    matches!(kind, Lpar | Lsqb | Lbrace | FStringStart | TStringStart)
}

fn closes(kind: TokenKind) -> bool {
    use TokenKind::{FStringEnd, Rbrace, Rpar, Rsqb, TStringEnd};
    matches!(kind, Rpar | Rsqb | Rbrace | FStringEnd | TStringEnd)
}

/// Tokens that add no level, however many stand in a row.
fn is_flat(kind: TokenKind) -> bool {
    use TokenKind as T;
    matches!(
        kind,
        T::Name
            | T::Int
            | T::Float
            | T::Complex
            | T::String
            | T::FStringMiddle
            | T::TStringMiddle
            | T::Comment
            | T::NonLogicalNewline
            | T::True
            | T::False
            | T::None
            | T::Case
            | T::Lazy
            | T::Match
            | T::Type
            | T::Colon
            | T::Comma
            | T::Semi
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_code_is_shallow_however_long() {
        let list = format!("x = [{}]\n", "-1, (2, f(3)), 'a' 'b', ".repeat(50_000));
        let dict = format!("x = {{{}}}\n", "'k': lambda a, b: a + b, ".repeat(20_000));
        let lines = "x = a.b(c)[d] + 1 if e else lambda a=1, *b: (yield)\n".repeat(10_000);
        let text = format!("x = f'{}'\n", "{a.b}{c!r:>{d}} ".repeat(20_000));
        let strings = format!("x = ({})\n", "'a'\n".repeat(50_000));
        let one_line = "x = a.b + 1; ".repeat(20_000);
        for source in [list, dict, lines, text, strings, one_line] {
            assert_eq!(excess(&source), None, "{}", &source[..40]);
        }
    }

    #[test]
    fn chains_and_nests_of_every_kind_are_counted() {
        let n = 100_000;
        for unit in [
            "-",
            "1+",
            "a.",
            "not ",
            "await ",
            "lambda:",
            "lambda a, b:",
            "lambda a=",
            "1 if 1 else ",
            "a and ",
            "a<",
            "(yield) or ",
            "*",
            "~",
            "a:=",
            "a=",
        ] {
            assert_eq!(excess(&unit.repeat(n)), Some(Excess::Depth), "{unit}");
            assert_eq!(
                excess(&format!("f({}", unit.repeat(n))),
                Some(Excess::Depth),
                "{unit} in a call"
            );
        }
        for unit in ["()", "[0]", "(a)(b)"] {
            assert_eq!(excess(&format!("f{}", unit.repeat(n))), Some(Excess::Depth), "{unit}");
        }
        for unit in ["(", "[", "{", "f(", "f'{"] {
            assert!(excess(&unit.repeat(n)).is_some(), "{unit}");
        }
        assert_eq!(excess(&"if a: ".repeat(n)), Some(Excess::Depth));
    }

    #[test]
    fn what_follows_a_bracket_adds_to_what_was_inside_it() {
        // Each bracket alone is shallow; the tree nests them from the left.
        let tail = "+1".repeat(1_000);
        let source = format!("{}1{}", "(".repeat(100), format!("{tail})").repeat(100));
        assert_eq!(excess(&source), Some(Excess::Depth));
    }

    #[test]
    fn brackets_and_indents_end_where_cpython_ends() {
        let nested = |n: usize| format!("{}{}\n", "(".repeat(n), ")".repeat(n));
        assert_eq!(excess(&nested(200)), None);
        assert_eq!(excess(&nested(201)), Some(Excess::Brackets));
        let indented =
            |n: usize| (0..=n).map(|i| format!("{}if a:\n", " ".repeat(i))).collect::<String>();
        assert_eq!(excess(&indented(99)), None);
        assert_eq!(excess(&indented(100)), Some(Excess::Indents));
    }

    #[test]
    fn the_line_is_named() {
        let source = format!("a = '''\n\n'''\nb = {}1\nc = 1\n", "-".repeat(5_000));
        assert_eq!(
            check(&source).unwrap_err().message,
            "line 4: an expression is nested more than 3000 levels deep"
        );
    }
}
