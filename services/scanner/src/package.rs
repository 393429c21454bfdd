//! What an image has installed, and where it was found.

use std::fmt::Write as _;

use mecapy_registry::Digest;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// Installed by Debian's dpkg.
    Deb,
    /// A Python distribution that dpkg doesn't own.
    Pypi,
}

/// One installed package at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    pub ecosystem: Ecosystem,
    /// Of a Python package, normalised.
    pub name: String,
    pub version: String,
    /// What a dpkg package was built from: distributions' advisories are about sources.
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
        let (name, version) = (escape(&self.name), escape(&self.version));
        match self.ecosystem {
            Ecosystem::Pypi => format!("pkg:pypi/{name}@{version}"),
            Ecosystem::Deb => {
                let vendor = os.map_or("debian", |os| os.id.as_str());
                let mut purl = format!("pkg:deb/{}/{name}@{version}", escape(vendor));
                let mut separator = '?';
                if let Some(architecture) = &self.architecture {
                    let _ = write!(purl, "{separator}arch={}", escape(architecture));
                    separator = '&';
                }
                if let Some(os) = os {
                    let _ = write!(
                        purl,
                        "{separator}distro={}-{}",
                        escape(&os.id),
                        escape(&os.version_id)
                    );
                }
                purl
            }
        }
    }
}

/// PEP 503: lower case, runs of `-`, `_` and `.` are one `-`.
pub fn normalise_pypi_name(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    let mut gap = false;
    for c in name.trim().chars() {
        if matches!(c, '-' | '_' | '.') {
            gap = true;
        } else {
            if std::mem::take(&mut gap) {
                normal.push('-');
            }
            normal.extend(c.to_lowercase());
        }
    }
    if gap {
        normal.push('-');
    }
    normal
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
    fn names_are_normalised_as_pep_503_says() {
        for (name, normal) in [
            ("PyYAML", "pyyaml"),
            ("ruamel.yaml", "ruamel-yaml"),
            ("a_-.b", "a-b"),
            (" Jinja2 ", "jinja2"),
            ("-x-", "-x-"),
        ] {
            assert_eq!(normalise_pypi_name(name), normal);
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
