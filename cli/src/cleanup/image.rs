//! The parts of an image's name that somebody gives.

use std::str::FromStr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub repository: Option<String>,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is no image: write repository:tag, repository@sha256:… or sha256:…")
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None if text.starts_with("sha256:") => ("", Some(text)),
            None => (text, None),
        };
        let is_digest = |digest: &str| {
            digest.strip_prefix("sha256:").is_some_and(|hex| {
                hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            })
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong());
        }
        // A registry in front says nothing: there is one primary.
        let name = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => rest,
            _ => name,
        };
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (name, None),
        };
        if (repository.is_empty() && digest.is_none()) || tag.is_some_and(str::is_empty) {
            return Err(wrong());
        }
        Ok(Self {
            repository: (!repository.is_empty()).then(|| repository.to_owned()),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_what_is_known_of_it() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let parts = |text: &str| {
            let image: Image = text.parse().unwrap();
            [image.repository, image.tag, image.digest].map(Option::unwrap_or_default).join(" ")
        };
        assert_eq!(parts("mecapy/functions/f:v1-a"), "mecapy/functions/f v1-a ");
        assert_eq!(parts("h:5000/mecapy/functions/f:v1-a"), "mecapy/functions/f v1-a ");
        assert_eq!(parts("mecapy/base/python"), "mecapy/base/python  ");
        assert_eq!(parts(&format!("a/b@{digest}")), format!("a/b  {digest}"));
        assert_eq!(parts(&format!("a/b:t@{digest}")), format!("a/b t {digest}"));
        assert_eq!(parts(&digest), format!("  {digest}"));
        for wrong in ["", ":tag", "a/b:", "a/b@sha256:x", "sha256:x"] {
            assert!(wrong.parse::<Image>().is_err(), "{wrong}");
        }
    }
}
