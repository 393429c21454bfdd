//! Which versions an advisory is about.
//!
//! The rules of the OSV schema, and where real records leave them, the reading that flags rather than passes:
//! - A version is affected if a range holds it **or** it is listed.
//! - Events count in the order of their versions, not in that of the file.
//! - `last_affected` given again without a new `introduced`: everything up to the highest of them.
//! - A bound that isn't PEP 440 (`2.9.0-NA`, `7.2.0-12.1`) is read as the numbers in it.
//! - An installed version that is none by its rules can't be compared, and is affected.
//! - `2.6.0+cu124` is 2.6.0 built by someone else: a local label counts only where the bound has one.

use std::cmp::Ordering;
use std::fmt;

use crate::codec::{Damaged, Reader, Writer};
use crate::version::{Installed, Scheme, Version};

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
    fn parse(scheme: Scheme, text: &str) -> Option<Self> {
        Version::parse(scheme, text)
            .map(|(version, exact)| Self { version, text: (!exact).then(|| text.into()) })
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
    fn holds_all(&self) -> bool {
        self.from.is_none() && self.until == Until::Forever
    }

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affected {
    scheme: Scheme,
    intervals: Box<[Interval]>,
    /// Listed versions that no interval holds.
    listed: Box<[Version]>,
    /// Listed versions that are none by the scheme's rules: compared as text.
    listed_text: Box<[Box<str>]>,
}

impl Affected {
    /// `ranges` are the ECOSYSTEM ranges of the record, `listed` its explicit versions.
    pub fn new(scheme: Scheme, ranges: &[Vec<Event>], listed: &[impl AsRef<str>]) -> Self {
        let mut affected = Self {
            scheme,
            intervals: ranges.iter().flat_map(|events| intervals(scheme, events)).collect(),
            listed: Box::default(),
            listed_text: Box::default(),
        };
        // From the first version to the end of time: nothing is outside.
        if affected.intervals.iter().any(Interval::holds_all) {
            return affected;
        }
        // Most records list every version that their ranges hold: only the others are worth keeping.
        let (mut versions, mut texts) = (Vec::new(), Vec::new());
        for text in listed.iter().map(AsRef::as_ref) {
            match Version::parse_exact(scheme, text) {
                Some(version) => {
                    let installed = Installed::of(scheme, version);
                    if !affected.in_ranges(&installed) {
                        versions.extend(installed.version().cloned());
                    }
                }
                None => texts.push(text.into()),
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
            || installed.version().is_some_and(|version| self.listed.contains(version))
            || self.listed_text.iter().any(|text| **text == *installed.text())
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
            .filter(|bound| !self.contains(&Installed::of(self.scheme, bound.version.clone())))
            .min_by(|a, b| a.version.cmp(&b.version))
            .map(ToString::to_string)
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.number(self.intervals.len() as u64);
        for interval in &self.intervals {
            to.optional(interval.from.as_ref().map(ToString::to_string).as_deref());
            match &interval.until {
                Until::Forever => to.byte(FOREVER),
                Until::Before(bound) => {
                    to.byte(BEFORE);
                    to.text(&bound.to_string());
                }
                Until::Through(bound) => {
                    to.byte(THROUGH);
                    to.text(&bound.to_string());
                }
            }
        }
        to.number(self.listed.len() as u64);
        self.listed.iter().for_each(|version| to.text(&version.to_string()));
        to.number(self.listed_text.len() as u64);
        self.listed_text.iter().for_each(|text| to.text(text));
    }

    pub(crate) fn read(scheme: Scheme, from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let version =
            |text: &str| Version::parse(scheme, text).map(|(version, _)| version).ok_or(Damaged);
        let bound = |text: &str| Bound::parse(scheme, text).ok_or(Damaged);
        let intervals = (0..from.number()?)
            .map(|_| {
                let start = from.optional()?.map(version).transpose()?;
                let until = match from.byte()? {
                    FOREVER => Until::Forever,
                    BEFORE => Until::Before(bound(from.text()?)?),
                    THROUGH => Until::Through(bound(from.text()?)?),
                    _ => return Err(Damaged),
                };
                Ok(Interval { from: start, until })
            })
            .collect::<Result<_, _>>()?;
        let listed =
            (0..from.number()?).map(|_| version(from.text()?)).collect::<Result<_, _>>()?;
        let listed_text =
            (0..from.number()?).map(|_| Ok(from.text()?.into())).collect::<Result<_, _>>()?;
        Ok(Self { scheme, intervals, listed, listed_text })
    }
}

const FOREVER: u8 = 0;
const BEFORE: u8 = 1;
const THROUGH: u8 = 2;

fn intervals(scheme: Scheme, events: &[Event]) -> Vec<Interval> {
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
            Event::Introduced(text) => sorted.push((Bound::parse(scheme, text), Kind::Introduced)),
            // An end that can't be read is no end.
            Event::Fixed(text) => {
                if let Some(bound) = Bound::parse(scheme, text) {
                    sorted.push((Some(bound), Kind::Fixed));
                }
            }
            Event::LastAffected(text) => {
                if let Some(bound) = Bound::parse(scheme, text) {
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

#[cfg(test)]
mod tests;
