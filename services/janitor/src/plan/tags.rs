//! What a tag means.

use mecapy_registry::Digest;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// `v{version}-…`
    Version(u32),
    Latest,
    /// `sha256-<hex>`, with or without an ending: what is there refers to that digest.
    Referrer(Digest),
    Other,
}

impl Tag {
    pub fn read(tag: &str) -> Self {
        if tag == "latest" {
            return Self::Latest;
        }
        if let Some(rest) = tag.strip_prefix('v') {
            let number = rest.split_once('-').map_or(rest, |(number, _)| number);
            if !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && let Ok(number) = number.parse()
            {
                return Self::Version(number);
            }
        }
        match tag.strip_prefix("sha256-").and_then(|rest| rest.split_at_checked(64)) {
            Some((hex, ending)) if ending.is_empty() || ending.starts_with('.') => {
                format!("sha256:{hex}").parse().map_or(Self::Other, Self::Referrer)
            }
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_for_what_they_are() {
        let digest = Digest::of(b"x");
        let hex = digest.hex();
        for (tag, meaning) in [
            ("latest", Tag::Latest),
            ("v12-0a1b2c3d", Tag::Version(12)),
            ("v3", Tag::Version(3)),
            ("v", Tag::Other),
            ("v-1", Tag::Other),
            ("v+1-x", Tag::Other),
            ("v99999999999-x", Tag::Other),
            ("3.11-slim", Tag::Other),
            ("sha256-abc", Tag::Other),
        ] {
            assert_eq!(Tag::read(tag), meaning, "{tag}");
        }
        assert_eq!(Tag::read(&format!("sha256-{hex}")), Tag::Referrer(digest));
        assert_eq!(Tag::read(&format!("sha256-{hex}.sig")), Tag::Referrer(digest));
        assert_eq!(Tag::read(&format!("sha256-{hex}0")), Tag::Other);
        assert_eq!(Tag::read(&format!("sha256-{}ä", &hex[..63])), Tag::Other);
    }
}
