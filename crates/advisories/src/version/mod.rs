//! Versions, by the rules of who made them: PEP 440, dpkg, apk.

mod apk;
mod dpkg;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use pep440_rs::Version as Pep440;

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Pep440,
    Dpkg,
    Apk,
}

/// Only versions of one scheme are ever compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Pep440(Pep440),
    Dpkg(dpkg::Version),
    Apk(apk::Version),
}

impl Version {
    /// The version, and whether the text is one as it stands.
    ///
    /// Of a text that isn't PEP 440 the numbers in it are taken as a release: for an upper bound that is the same
    /// version or a later one, never an earlier.
    pub fn parse(scheme: Scheme, text: &str) -> Option<(Self, bool)> {
        let text = text.trim();
        match scheme {
            Scheme::Dpkg => dpkg::Version::parse(text).map(|version| (Self::Dpkg(version), true)),
            Scheme::Apk => apk::Version::parse(text).map(|version| (Self::Apk(version), true)),
            Scheme::Pep440 => {
                parse_pep440(text).map(|(version, exact)| (Self::Pep440(version), exact))
            }
        }
    }

    /// As it stands, or not at all.
    pub fn parse_exact(scheme: Scheme, text: &str) -> Option<Self> {
        match scheme {
            Scheme::Pep440 => Pep440::from_str(text).ok().map(Self::Pep440),
            _ => Self::parse(scheme, text).map(|(version, _)| version),
        }
    }

    fn is_local(&self) -> bool {
        matches!(self, Self::Pep440(version) if version.is_local())
    }

    fn without_local(self) -> Self {
        match self {
            Self::Pep440(version) => Self::Pep440(version.without_local()),
            other => other,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pep440(version) => version.fmt(f),
            Self::Dpkg(version) => version.fmt(f),
            Self::Apk(version) => version.fmt(f),
        }
    }
}

fn parse_pep440(text: &str) -> Option<(Pep440, bool)> {
    if let Ok(version) = Pep440::from_str(text) {
        return Some((version, true));
    }
    // Some exports escape the dot.
    if let Ok(version) = Pep440::from_str(&text.replace('\\', "")) {
        return Some((version, false));
    }
    let numbers: Vec<u64> = text
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX))
        .collect();
    (!numbers.is_empty()).then(|| (Pep440::new(numbers), false))
}

/// The version that an image has of a package.
#[derive(Debug, Clone)]
pub struct Installed {
    scheme: Scheme,
    text: String,
    /// `None`: there is no version in the text.
    version: Option<Version>,
    public: Option<Version>,
}

impl Installed {
    pub fn new(scheme: Scheme, text: &str) -> Self {
        let version = Version::parse(scheme, text).map(|(version, _)| version);
        let public = version.clone().map(Version::without_local);
        Self { scheme, text: text.to_owned(), version, public }
    }

    pub(crate) fn of(scheme: Scheme, version: Version) -> Self {
        let public = Some(version.clone().without_local());
        Self { scheme, text: String::new(), version: Some(version), public }
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// Whether its order to the bound is as asked. One that can't be compared is on every side of every bound.
    pub(crate) fn is(&self, order: fn(Ordering) -> bool, bound: &Version) -> bool {
        let own = if bound.is_local() { &self.version } else { &self.public };
        own.as_ref().is_none_or(|own| order(own.cmp(bound)))
    }
}
