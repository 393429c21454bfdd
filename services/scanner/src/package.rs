//! What an image has installed, and where it was found.

use std::fmt::Write as _;

use mecapy_advisories::ecosystem;
use mecapy_registry::Digest;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// Installed by Debian's dpkg.
    Deb,
    /// Installed by Alpine's apk.
    Apk,
    /// A Python distribution that no package manager of the distribution owns.
    Pypi,
    /// What other engines know.
    Other,
}

/// One installed package at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    pub ecosystem: Ecosystem,
    /// Of a Python package, normalised.
    pub name: String,
    pub version: String,
    /// What a package of a distribution was built from: distributions' advisories are about sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The file that says so, without a leading slash.
    pub path: String,
    /// The layer that brought it.
    pub layer: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Source {
    pub name: String,
    pub version: String,
}

/// `/etc/os-release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsRelease {
    pub id: String,
    pub version_id: String,
    pub pretty_name: String,
}

impl Package {
    /// <https://github.com/package-url/purl-spec>
    pub fn purl(&self, os: Option<&OsRelease>) -> String {
        purl(self.ecosystem, &self.name, &self.version, self.architecture.as_deref(), os)
    }

    /// Where advisories about it are, and under which name and version. `None`: OSV has none for its distribution.
    pub fn subject(&self, os: Option<&OsRelease>) -> Option<Subject<'_>> {
        let ecosystem = match self.ecosystem {
            Ecosystem::Pypi => ecosystem::PYPI.to_owned(),
            Ecosystem::Other => return None,
            Ecosystem::Deb | Ecosystem::Apk => {
                ecosystem::of_distribution(&os?.id, &os?.version_id)?
            }
        };
        let (name, version) = match &self.source {
            Some(source) => (source.name.as_str(), source.version.as_str()),
            None => (self.name.as_str(), self.version.as_str()),
        };
        Some(Subject { ecosystem, name, version })
    }
}

/// What advisories are looked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject<'a> {
    /// As OSV names it.
    pub ecosystem: String,
    pub name: &'a str,
    pub version: &'a str,
}

pub fn purl(
    ecosystem: Ecosystem,
    name: &str,
    version: &str,
    architecture: Option<&str>,
    os: Option<&OsRelease>,
) -> String {
    let (name, version) = (escape(name), escape(version));
    let (kind, otherwise) = match ecosystem {
        Ecosystem::Pypi => return format!("pkg:pypi/{name}@{version}"),
        Ecosystem::Other => return format!("pkg:generic/{name}@{version}"),
        Ecosystem::Deb => ("deb", "debian"),
        Ecosystem::Apk => ("apk", "alpine"),
    };
    let vendor = os.map_or(otherwise, |os| os.id.as_str());
    let mut purl = format!("pkg:{kind}/{}/{name}@{version}", escape(vendor));
    let mut separator = '?';
    if let Some(architecture) = architecture {
        let _ = write!(purl, "{separator}arch={}", escape(architecture));
        separator = '&';
    }
    if let Some(os) = os {
        let _ = write!(purl, "{separator}distro={}-{}", escape(&os.id), escape(&os.version_id));
    }
    purl
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(ecosystem: Ecosystem, name: &str, version: &str) -> Package {
        Package {
            ecosystem,
            name: name.to_owned(),
            version: version.to_owned(),
            source: None,
            architecture: Some("amd64".to_owned()),
            path: String::new(),
            layer: Digest::of(b"layer"),
        }
    }

    #[test]
    fn a_purl_escapes_what_has_a_meaning_in_it() {
        let os = OsRelease {
            id: "debian".into(),
            version_id: "13".into(),
            pretty_name: "Debian".into(),
        };
        assert_eq!(
            package(Ecosystem::Deb, "libstdc++6", "1:14.2.0-19+deb13u1").purl(Some(&os)),
            "pkg:deb/debian/libstdc%2B%2B6@1%3A14.2.0-19%2Bdeb13u1?arch=amd64&distro=debian-13",
        );
        assert_eq!(
            package(Ecosystem::Pypi, "torch", "2.6.0+cu124").purl(Some(&os)),
            "pkg:pypi/torch@2.6.0%2Bcu124"
        );
    }
}
