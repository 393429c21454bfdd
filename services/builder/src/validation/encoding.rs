//! From bytes to text as CPython does: byte order mark, coding cookie (PEP 263), else UTF-8.

use std::borrow::Cow;

use mecapy_proto::ErrorCode;

use crate::rejection::Rejection;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// The text of a source, without its byte order mark.
pub fn decode(code: &[u8]) -> Result<Cow<'_, str>, Rejection> {
    let (body, marked) = code.strip_prefix(BOM).map_or((code, false), |rest| (rest, true));
    let text = match cookie(body).map(normal_name).as_deref() {
        None | Some("utf-8") => utf8(body)?,
        Some("utf8" | "u8") if !marked => utf8(body)?,
        Some(name) if marked => {
            return Err(invalid(format!(
                "the code starts with a UTF-8 byte order mark but its coding line says {name:?}"
            )));
        }
        Some("ascii" | "us-ascii" | "646") => match body.iter().position(|b| !b.is_ascii()) {
            None => utf8(body)?,
            Some(at) => return Err(bad_byte(body, at, "ASCII, as its coding line says")),
        },
        Some("iso-8859-1") => Cow::Owned(body.iter().map(|&b| char::from(b)).collect()),
        Some(name) => {
            return Err(invalid(format!(
                "the coding line names {name:?}; code is accepted as UTF-8, or as Latin-1 with a coding line"
            )));
        }
    };
    match text.find('\0') {
        None => Ok(text),
        Some(at) => Err(Rejection::new(
            ErrorCode::SyntaxError,
            format!("line {}: source code cannot contain null bytes", line_of(text.as_bytes(), at)),
        )),
    }
}

fn utf8(body: &[u8]) -> Result<Cow<'_, str>, Rejection> {
    std::str::from_utf8(body).map(Cow::Borrowed).map_err(|error| {
        bad_byte(body, error.valid_up_to(), "UTF-8; save it as UTF-8, or add a coding line")
    })
}

fn bad_byte(body: &[u8], at: usize, expected: &str) -> Rejection {
    let byte = body.get(at).copied().unwrap_or_default();
    invalid(format!("line {}: byte 0x{byte:02x} is not {expected}", line_of(body, at)))
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidEncoding, message)
}

fn line_of(body: &[u8], at: usize) -> usize {
    1 + body.iter().take(at).filter(|&&b| b == b'\n').count()
}

/// The encoding named by a comment in the first line, or in the second if the first holds no code.
fn cookie(body: &[u8]) -> Option<&str> {
    let mut lines = body.splitn(3, |&b| b == b'\n').take(2);
    let first = lines.next()?;
    named_in(first).or_else(|| {
        let bare = first.trim_ascii_start();
        if bare.is_empty() || bare.starts_with(b"#") { named_in(lines.next()?) } else { None }
    })
}

/// `^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)`
fn named_in(line: &[u8]) -> Option<&str> {
    let start = line.iter().position(|b| !matches!(b, b' ' | b'\t' | b'\x0c'))?;
    let comment = line[start..].strip_prefix(b"#")?;
    comment.windows(7).enumerate().find_map(|(at, word)| {
        if !(word.starts_with(b"coding") && matches!(word[6], b':' | b'=')) {
            return None;
        }
        let rest = comment[at + 7..].trim_ascii_start();
        let end = rest
            .iter()
            .position(|&b| !(b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
            .unwrap_or(rest.len());
        let name = std::str::from_utf8(&rest[..end]).ok()?;
        (!name.is_empty()).then_some(name)
    })
}

/// As CPython's tokenizer: the first 12 characters decide, `_` is `-`.
fn normal_name(name: &str) -> String {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let is = |prefix: &str| {
        name == prefix || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'))
    };
    if is("utf-8") {
        "utf-8".to_owned()
    } else if is("latin-1")
        || is("iso-8859-1")
        || is("iso-latin-1")
        || ["latin1", "latin", "l1", "iso8859-1", "8859"].contains(&name.as_str())
    {
        "iso-8859-1".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &[u8]) -> (ErrorCode, String) {
        let rejection = decode(code).unwrap_err();
        (rejection.code, rejection.message)
    }

    #[test]
    fn utf_8_needs_no_cookie_and_may_have_one() {
        for cookie in [
            "",
            "# -*- coding: utf-8 -*-\n",
            "#!/usr/bin/python\n# vim: set fileencoding=UTF_8 :\n",
            "# coding: utf-8-sig\n",
        ] {
            let source = format!("{cookie}x = 'é'\n");
            assert_eq!(decode(source.as_bytes()), Ok(Cow::Borrowed(source.as_str())), "{cookie}");
        }
        assert_eq!(decode(b"\xef\xbb\xbfx = 1\n"), Ok(Cow::Borrowed("x = 1\n")));
    }

    #[test]
    fn latin_1_is_read_with_its_cookie_only() {
        assert_eq!(
            decode(b"# coding: latin-1\nx = '\xe9'\n"),
            Ok(Cow::Borrowed("# coding: latin-1\nx = 'é'\n"))
        );
        let (code, message) = refused(b"a = 1\nx = '\xe9'\n");
        assert_eq!(code, ErrorCode::InvalidEncoding);
        assert!(message.starts_with("line 2: byte 0xe9 is not UTF-8"), "{message}");
    }

    #[test]
    fn a_cookie_counts_in_the_first_two_lines_and_only_after_no_code() {
        assert!(decode(b"\n\n# coding: cp1252\nx = 1\n").is_ok());
        assert!(decode(b"x = 1\n# coding: cp1252\n").is_ok());
        assert!(decode(b"# hi\n# coding: cp1252\n").is_err());
        assert!(decode(b"x = 'coding: cp1252'\n").is_ok());
    }

    #[test]
    fn other_encodings_are_named_in_the_refusal() {
        for name in ["cp1252", "utf-7", "shift_jis", "utf-16", "hex"] {
            let (code, message) = refused(format!("# coding: {name}\n").as_bytes());
            assert_eq!(code, ErrorCode::InvalidEncoding);
            assert!(message.contains(&name.replace('_', "-")), "{message}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_another_encoding_contradict_each_other() {
        assert_eq!(refused(b"\xef\xbb\xbf# coding: latin-1\n").0, ErrorCode::InvalidEncoding);
        assert!(decode(b"\xef\xbb\xbf# coding: utf-8\n").is_ok());
        // CPython knows `utf8` as another name of UTF-8, but not beside a mark.
        assert!(decode(b"\xef\xbb\xbf# coding: utf8\n").is_err());
        assert!(decode(b"# coding: utf8\n").is_ok());
    }

    #[test]
    fn null_bytes_and_utf_16_are_refused() {
        assert_eq!(
            refused(b"x = 1\ny = '\0'\n"),
            (ErrorCode::SyntaxError, "line 2: source code cannot contain null bytes".into())
        );
        assert_eq!(refused(b"\xff\xfex\x00=\x001\x00").0, ErrorCode::InvalidEncoding);
    }
}
