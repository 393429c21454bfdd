//! JSON as the server sent it, laid out for reading: the order of keys and every digit of a number stay.

use std::fmt::Write as _;

use crate::terminal::is_unsafe;

/// Indents JSON text, which must be valid. Characters that a terminal would act on are escaped.
pub fn pretty(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len() * 2);
    let mut depth = 0_usize;
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push('"');
                let mut escaped = false;
                for c in chars.by_ref() {
                    if is_unsafe(c) {
                        let _ = write!(out, "\\u{:04x}", u32::from(c));
                    } else {
                        out.push(c);
                    }
                    if c == '"' && !escaped {
                        break;
                    }
                    escaped = c == '\\' && !escaped;
                }
            }
            '{' | '[' => {
                while chars.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                out.push(c);
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_digits_stay_as_they_were() {
        let raw = r#"{"z":1234567890123456789012345,"a":[1.10,-2e5,true,null],"o":{},"l":[ ],"s":"x: {\"},[\\"}"#;
        let expected = r#"{
  "z": 1234567890123456789012345,
  "a": [
    1.10,
    -2e5,
    true,
    null
  ],
  "o": {},
  "l": [],
  "s": "x: {\"},[\\"
}"#;
        assert_eq!(pretty(raw), expected);
        assert_eq!(pretty(expected), expected);
    }

    #[test]
    fn what_is_laid_out_is_the_same_json() {
        for raw in [
            r#""\u001b[31m\\\" ä""#,
            "[[[]],{\"a\":{\"b\":[]}}]",
            "3",
            "null",
            "\"\u{9b}2J\u{7f}\u{202e}\"",
        ] {
            let before: serde_json::Value = serde_json::from_str(raw).unwrap();
            let after: serde_json::Value = serde_json::from_str(&pretty(raw)).unwrap();
            assert_eq!(before, after);
            assert!(!pretty(raw).contains(|c: char| c != '\n' && is_unsafe(c)), "{raw:?}");
        }
    }
}
