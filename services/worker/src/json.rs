//! Whether bytes are a JSON text (RFC 8259), without keeping what is in them.

use serde::de::IgnoredAny;

/// What is wrong with it, in words; none if it is fine.
pub(crate) fn problem(bytes: &[u8]) -> Option<String> {
    // What is ignored is not checked for being UTF-8.
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str::<IgnoredAny>(text).err().map(|error| error.to_string()),
        Err(error) => Some(format!("not UTF-8 at byte {}", error.valid_up_to())),
    }
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn only_json_is_json() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for fine in ["{}", "null", " [1, \"ä\"]\n", "\"\\u0000\"", &deep] {
            assert_eq!(problem(fine.as_bytes()), None, "{fine:.20}");
        }
        for bad in [&b""[..], b"{", b"NaN", b"{'a': 1}", b"{} {}", b"\"\xff\"", b"\xef\xbb\xbf{}"] {
            assert!(problem(bad).is_some(), "{bad:?}");
        }
    }
}
