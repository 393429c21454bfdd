//! Which versions an advisory is about, by PEP 440.
//!
//! The rules of the OSV schema, and where real records leave them, the reading that flags rather than passes:
//! - A version is affected if a range holds it **or** it is listed.
//! - Events count in the order of their versions, not in that of the file.
//! - `last_affected` given again without a new `introduced`: everything up to the highest of them.
//! - A bound that isn't PEP 440 (`2.9.0-NA`, `7.2.0-12.1`) is read as the numbers in it.
//! - An installed version without a number in it can't be compared, and is affected.
//! - `2.6.0+cu124` is 2.6.0 built by someone else: a local label counts only where the bound has one.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use pep440_rs::Version;

/// The version that an image has of a package.
#[derive(Debug, Clone)]
pub struct Installed {
    text: String,
    /// `None`: there is no number in the text.
    version: Option<Version>,
    public: Option<Version>,
}

impl Installed {
    pub fn new(text: &str) -> Self {
        let version = parse(text).map(|(version, _)| version);
        Self { text: text.to_owned(), public: version.clone().map(Version::without_local), version }
    }

    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// Whether its order to the bound is as asked. One that can't be compared is on every side of every bound.
    fn is(&self, order: fn(Ordering) -> bool, bound: &Version) -> bool {
        let own = if bound.is_local() { &self.version } else { &self.public };
        own.as_ref().is_none_or(|own| order(own.cmp(bound)))
    }
}

/// What happens at a version, as a record says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Introduced(String),
    Fixed(String),
    LastAffected(String),
}

/// A version as a bound, and the record's own text for people where that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    version: Version,
    text: Option<Box<str>>,
}

impl Bound {
    fn parse(text: &str) -> Option<Self> {
        parse(text).map(|(version, exact)| Self { version, text: (!exact).then(|| text.into()) })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => self.version.fmt(f),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Until {
    Forever,
    Before(Bound),
    Through(Bound),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Interval {
    /// `None`: from the first version on.
    from: Option<Version>,
    until: Until,
}

impl Interval {
    fn holds(&self, installed: &Installed) -> bool {
        self.from.as_ref().is_none_or(|from| installed.is(Ordering::is_ge, from))
            && match &self.until {
                Until::Forever => true,
                Until::Before(bound) => installed.is(Ordering::is_lt, &bound.version),
                Until::Through(bound) => installed.is(Ordering::is_le, &bound.version),
            }
    }
}

/// The versions of one package that an advisory is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affected {
    intervals: Box<[Interval]>,
    /// Listed versions that no interval holds.
    listed: Box<[Version]>,
    /// Listed versions that are no PEP 440 versions: compared as text.
    listed_text: Box<[Box<str>]>,
}

impl Affected {
    /// `ranges` are the ECOSYSTEM ranges of the record, `listed` its explicit versions.
    pub fn new(ranges: &[Vec<Event>], listed: &[impl AsRef<str>]) -> Self {
        let mut affected = Self {
            intervals: ranges.iter().flat_map(|events| intervals(events)).collect(),
            ..Self::default()
        };
        // Most records list every version that their ranges hold: only the others are worth keeping.
        let (mut versions, mut texts) = (Vec::new(), Vec::new());
        for text in listed.iter().map(AsRef::as_ref) {
            match Version::from_str(text) {
                Ok(version) => {
                    let installed = Installed {
                        text: String::new(),
                        public: Some(version.clone().without_local()),
                        version: Some(version.clone()),
                    };
                    if !affected.in_ranges(&installed) {
                        versions.push(version);
                    }
                }
                Err(_) => texts.push(text.into()),
            }
        }
        affected.listed = versions.into();
        affected.listed_text = texts.into();
        affected
    }

    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty() && self.listed.is_empty() && self.listed_text.is_empty()
    }

    pub fn contains(&self, installed: &Installed) -> bool {
        self.in_ranges(installed)
            || installed.version.as_ref().is_some_and(|version| self.listed.contains(version))
            || self.listed_text.iter().any(|text| **text == *installed.text)
    }

    fn in_ranges(&self, installed: &Installed) -> bool {
        self.intervals.iter().any(|interval| interval.holds(installed))
    }

    /// The lowest version above the installed one that is said to be fixed and that this advisory isn't about.
    pub fn fixed_after(&self, installed: &Installed) -> Option<String> {
        self.intervals
            .iter()
            .filter_map(|interval| match &interval.until {
                Until::Before(bound) if installed.is(Ordering::is_lt, &bound.version) => {
                    Some(bound)
                }
                _ => None,
            })
            .filter(|bound| !self.contains(&Installed::new(&bound.version.to_string())))
            .min_by(|a, b| a.version.cmp(&b.version))
            .map(ToString::to_string)
    }
}

fn intervals(events: &[Event]) -> Vec<Interval> {
    enum Kind {
        Introduced,
        Fixed,
        LastAffected,
    }
    // `None` is below every version: "0" in the schema.
    let mut sorted: Vec<(Option<Bound>, Kind)> = Vec::with_capacity(events.len());
    for event in events {
        match event {
            // An introduction that can't be read is one at the start.
            Event::Introduced(text) if text == "0" => sorted.push((None, Kind::Introduced)),
            Event::Introduced(text) => sorted.push((Bound::parse(text), Kind::Introduced)),
            // An end that can't be read is no end.
            Event::Fixed(text) => {
                if let Some(bound) = Bound::parse(text) {
                    sorted.push((Some(bound), Kind::Fixed));
                }
            }
            Event::LastAffected(text) => {
                if let Some(bound) = Bound::parse(text) {
                    sorted.push((Some(bound), Kind::LastAffected));
                }
            }
        }
    }
    // Stable: events of one version keep the order in which they were written.
    sorted.sort_by(|(a, _), (b, _)| {
        a.as_ref().map(|b| &b.version).cmp(&b.as_ref().map(|b| &b.version))
    });

    let mut intervals: Vec<Interval> = Vec::new();
    let mut open: Option<Option<Version>> = None;
    for (bound, kind) in sorted {
        match (kind, bound) {
            (Kind::Introduced, bound) => {
                open.get_or_insert_with(|| bound.map(|bound| bound.version));
            }
            (Kind::Fixed, Some(bound)) => {
                if let Some(from) = open.take() {
                    intervals.push(Interval { from, until: Until::Before(bound) });
                }
            }
            (Kind::LastAffected, Some(bound)) => {
                if let Some(from) = open.take() {
                    intervals.push(Interval { from, until: Until::Through(bound) });
                } else if let Some(Interval { until: until @ Until::Through(_), .. }) =
                    intervals.last_mut()
                {
                    *until = Until::Through(bound);
                }
            }
            (Kind::Fixed | Kind::LastAffected, None) => {}
        }
    }
    if let Some(from) = open {
        intervals.push(Interval { from, until: Until::Forever });
    }
    intervals
}

/// The version, and whether the text is one as it stands. Else the numbers in the text are taken as a release:
/// for an upper bound that is the same version or a later one, never an earlier.
fn parse(text: &str) -> Option<(Version, bool)> {
    let text = text.trim();
    if let Ok(version) = Version::from_str(text) {
        return Some((version, true));
    }
    // Some exports escape the dot.
    if let Ok(version) = Version::from_str(&text.replace('\\', "")) {
        return Some((version, false));
    }
    let numbers: Vec<u64> = text
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(u64::MAX))
        .collect();
    (!numbers.is_empty()).then(|| (Version::new(numbers), false))
}

#[cfg(test)]
mod tests;
