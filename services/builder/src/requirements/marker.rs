//! Bounds on an environment marker before it is parsed.
//!
//! `pep508_rs` turns markers into decision diagrams that are kept for the life of the process, and
//! whose size can double with each term. Real markers have two or three.

/// Most comparisons in one marker.
const MAX_TERMS: usize = 8;
/// Deepest parentheses in one marker.
const MAX_NESTING: usize = 8;

pub fn check_shape(marker: &str) -> Result<(), String> {
    let mut quote = None;
    let mut nesting = 0_usize;
    let mut deepest = 0;
    let mut outside = String::new();
    for c in marker.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            // The other quote inside a value can't be written back.
            (Some(_), '\'' | '"' | '\\') => {
                return Err("a marker's value has no quotes or backslashes".to_owned());
            }
            (Some(_), _) => continue,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => nesting += 1,
            (None, ')') => nesting = nesting.saturating_sub(1),
            (None, _) => {}
        }
        deepest = deepest.max(nesting);
        outside.push(if matches!(c, '(' | ')' | '\'' | '"') { ' ' } else { c });
    }
    let joints =
        outside.split_ascii_whitespace().filter(|word| matches!(*word, "and" | "or")).count();
    if joints >= MAX_TERMS || deepest > MAX_NESTING {
        return Err(format!("a marker has at most {MAX_TERMS} comparisons"));
    }
    Ok(())
}
