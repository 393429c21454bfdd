//! Names of images: `host[:port]/repository[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Digest, Error};

const DOCKER_HUB: &str = "docker.io";
/// The limit of the distribution specification for host and repository together is 255.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// The name of an image. Reading one follows Docker: without a registry it is Docker Hub's, and
/// there a name of one part belongs to `library/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl ImageRef {
    pub fn new(registry: impl Into<String>, repository: impl Into<String>) -> Self {
        Self { registry: registry.into(), repository: repository.into(), tag: None, digest: None }
    }

    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// What a manifest is asked by: the digest, else the tag, else `latest`.
    pub fn reference(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |reason: &str| Error::InvalidReference {
            value: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it, a port.
        let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[path_start..].find(':') {
            Some(colon) => {
                let colon = path_start + colon;
                (&rest[..colon], Some(&rest[colon + 1..]))
            }
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("the tag must be 1 to 128 of A-Z a-z 0-9 _ . -"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, path)) if names_a_host(first) => (first, path.to_owned()),
            _ => (DOCKER_HUB, name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        if !is_host(registry) {
            return Err(invalid("the registry must be a host, with a port or without"));
        }
        if !is_repository(&repository) {
            return Err(invalid(
                "the repository must be lower-case parts of a-z 0-9 . _ - between slashes",
            ));
        }
        let repository = if registry == DOCKER_HUB && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ImageRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The rule of Docker: the first part is a host if it can't be a part of a repository.
fn names_a_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`.
pub(crate) fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, "")) => (v6, None),
            Some((v6, port)) => match port.strip_prefix(':') {
                Some(port) => (v6, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_is_valid = if text.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
    };
    let port_is_valid = port
        .is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    host_is_valid && port_is_valid
}

/// The grammar of the distribution specification, which also keeps `..` out of URLs.
pub(crate) fn is_repository(text: &str) -> bool {
    text.len() <= MAX_REPOSITORY && text.split('/').all(is_repository_part)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_repository_part(part: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_are_valid = bytes.first().is_some_and(|b| is_alphanumeric(*b))
        && bytes.last().is_some_and(|b| is_alphanumeric(*b));
    ends_are_valid
        && bytes
            .split(|b| is_alphanumeric(*b))
            .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

pub(crate) fn is_tag(text: &str) -> bool {
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_without_a_registry_is_docker_hubs() {
        let parse = |text: &str| text.parse::<ImageRef>().unwrap().to_string();
        assert_eq!(parse("python:3.11-slim"), "docker.io/library/python:3.11-slim");
        assert_eq!(parse("grafana/grafana"), "docker.io/grafana/grafana");
        assert_eq!(parse("index.docker.io/python"), "docker.io/library/python");
    }

    #[test]
    fn a_port_is_not_a_tag() {
        let image: ImageRef = "127.0.0.1:5001/mecapy/base/python".parse().unwrap();
        assert_eq!(image.registry, "127.0.0.1:5001");
        assert_eq!(image.repository, "mecapy/base/python");
        assert_eq!(image.tag, None);
        assert_eq!(image.reference(), "latest");
        let image: ImageRef = "localhost/a:b".parse().unwrap();
        assert_eq!((image.registry.as_str(), image.tag.as_deref()), ("localhost", Some("b")));
        let image: ImageRef = "[::1]:5000/a".parse().unwrap();
        assert_eq!(image.registry, "[::1]:5000");
    }

    #[test]
    fn names_that_no_registry_takes_are_refused() {
        for bad in [
            "",
            "/",
            "a/",
            "A",
            "host.example/Upper",
            "host.example/a..b",
            "host.example/../etc",
            "host.example/a___b",
            "host.example/-a",
            "host.example/a:",
            "host.example/a:.x",
            "host.example/a:b c",
            "host.example:99999/a",
            "host.example:/a",
            "host..example/a",
            "host.example/a@sha256:00",
            "host.example/a?x=y",
            "user@host.example/a",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_reference_survives_display_and_parse(
            registry in r"(localhost|[a-z0-9]{1,8}(-[a-z0-9]{1,4})?\.[a-z]{2,5})(:[1-9][0-9]{0,3})?",
            repository in r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,8}){1,3}",
            tag in proptest::option::of(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            content in proptest::option::of(any::<u64>()),
        ) {
            let image = ImageRef {
                registry,
                repository,
                tag,
                digest: content.map(|content| Digest::of(&content.to_le_bytes())),
            };
            prop_assert_eq!(image.to_string().parse::<ImageRef>().unwrap(), image.clone());
            let json = serde_json::to_string(&image).unwrap();
            prop_assert_eq!(serde_json::from_str::<ImageRef>(&json).unwrap(), image);
        }

        #[test]
        fn reading_any_text_never_panics_and_is_stable(text in r"[ -~é]{0,60}") {
            if let Ok(image) = text.parse::<ImageRef>() {
                prop_assert_eq!(image.to_string().parse::<ImageRef>().unwrap(), image);
            }
        }
    }
}
