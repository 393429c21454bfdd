//! A record of the OSV schema, as far as it is read. <https://ossf.github.io/osv-schema/>

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::advisory::Advisory;
use crate::ecosystem;
use crate::range::{Affected, Event};
use crate::severity::Rating;
use crate::version::Scheme;

/// What a summary is cut to when it is taken from the details, in characters.
const SUMMARY_CHARS: usize = 160;

#[derive(Debug, Deserialize)]
pub struct Record {
    pub id: String,
    pub modified: DateTime<Utc>,
    published: Option<DateTime<Utc>>,
    pub withdrawn: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    aliases: Vec<String>,
    /// What a distribution's record is about, by the names of others.
    #[serde(default, deserialize_with = "null_is_empty")]
    upstream: Vec<String>,
    summary: Option<String>,
    details: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    severity: Vec<Score>,
    #[serde(default, deserialize_with = "null_is_empty")]
    affected: Vec<AffectedRecord>,
    #[serde(default)]
    database_specific: Value,
}

#[derive(Debug, Deserialize)]
struct Score {
    score: String,
}

#[derive(Debug, Deserialize)]
struct AffectedRecord {
    package: Option<PackageRecord>,
    #[serde(default, deserialize_with = "null_is_empty")]
    severity: Vec<Score>,
    #[serde(default, deserialize_with = "null_is_empty")]
    ranges: Vec<RangeRecord>,
    #[serde(default, deserialize_with = "null_is_empty")]
    versions: Vec<String>,
    #[serde(default)]
    database_specific: Value,
    #[serde(default)]
    ecosystem_specific: Value,
}

#[derive(Debug, Deserialize)]
struct PackageRecord {
    ecosystem: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct RangeRecord {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    events: Vec<EventRecord>,
}

#[derive(Debug, Deserialize)]
struct EventRecord {
    introduced: Option<String>,
    fixed: Option<String>,
    last_affected: Option<String>,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A package in an ecosystem that is read, and what an advisory says of it.
#[derive(Debug, Clone)]
pub struct About {
    pub ecosystem: Box<str>,
    pub name: Box<str>,
    pub versions: Affected,
    pub rating: Rating,
}

impl About {
    /// A record that was taken back says that its ecosystem has news, and nothing else.
    pub fn nothing(ecosystem: String) -> Self {
        let scheme = ecosystem::scheme(&ecosystem).unwrap_or(Scheme::Pep440);
        let versions = Affected::new(scheme, &[], &[] as &[&str]);
        Self { ecosystem: ecosystem.into(), name: "".into(), versions, rating: Rating::default() }
    }
}

impl Record {
    /// The ecosystems that it is about, of those that are read.
    pub fn ecosystems(&self) -> impl Iterator<Item = String> {
        let packages = self.affected.iter().filter_map(|affected| affected.package.as_ref());
        packages
            .map(|package| package.ecosystem.clone())
            .filter(|ecosystem| ecosystem::scheme(ecosystem).is_some())
    }

    /// The advisory, one for each flaw that it is about, and the packages that all of these are about.
    pub fn into_parts(self) -> (Vec<Advisory>, Vec<About>) {
        let own = own_word(&self.database_specific);
        let vectors: Vec<&str> =
            self.severity.iter().map(|severity| severity.score.as_str()).collect();
        let rating = Rating::of(own, vectors.iter().copied());
        let summary = summary(self.summary.as_deref(), self.details.as_deref());
        let malware =
            std::iter::once(&self.id).chain(&self.aliases).any(|id| id.starts_with("MAL-"));
        // Nobody rates malware, and nothing is worse.
        let rating = if malware { Rating::CRITICAL } else { rating };

        let about =
            self.affected.into_iter().filter_map(|affected| about(affected, rating, malware));
        let about: Vec<About> = about.filter(|about| !about.versions.is_empty()).collect();
        let advisory = |id: String, aliases: Vec<String>, notice: Option<&str>| Advisory {
            aliases: names(aliases, &id),
            id: id.into(),
            notice: notice.map(Into::into),
            summary: summary.as_str().into(),
            published: self.published,
        };
        // A notice about several flaws: each is one of its own, and the notice no name of it.
        let advisories = if self.aliases.is_empty() && self.upstream.len() > 1 {
            let notice = Some(self.id.as_str());
            self.upstream.into_iter().map(|flaw| advisory(flaw, Vec::new(), notice)).collect()
        } else {
            let mut aliases = self.aliases;
            aliases.extend(self.upstream);
            vec![advisory(self.id, aliases, None)]
        };
        (advisories, about)
    }
}

fn names(mut aliases: Vec<String>, id: &str) -> Box<[Box<str>]> {
    aliases.retain(|alias| alias != id);
    aliases.sort_unstable();
    aliases.dedup();
    aliases.into_iter().map(Into::into).collect()
}

/// `None`: of an ecosystem that is not read.
fn about(affected: AffectedRecord, of_record: Rating, malware: bool) -> Option<About> {
    let package = affected.package?;
    let scheme = ecosystem::scheme(&package.ecosystem)?;
    let own = own_word(&affected.ecosystem_specific).or(own_word(&affected.database_specific));
    let vectors = affected.severity.iter().map(|severity| severity.score.as_str());
    let rating = Rating::of(own, vectors);
    let rating = if malware || rating == Rating::default() { of_record } else { rating };
    let ranges: Vec<Vec<Event>> = affected
        .ranges
        .iter()
        .filter(|range| range.kind == "ECOSYSTEM")
        .map(RangeRecord::events)
        .collect();
    Some(About {
        versions: Affected::new(scheme, &ranges, &affected.versions),
        name: ecosystem::normalise_name(&package.ecosystem, &package.name).into(),
        ecosystem: package.ecosystem.into(),
        rating,
    })
}

impl RangeRecord {
    fn events(&self) -> Vec<Event> {
        let mut events = Vec::with_capacity(self.events.len());
        for event in &self.events {
            events.extend(event.introduced.clone().map(Event::Introduced));
            events.extend(event.fixed.clone().map(Event::Fixed));
            events.extend(event.last_affected.clone().map(Event::LastAffected));
        }
        events
    }
}

/// The database's own rating; Debian calls it urgency.
fn own_word(specific: &Value) -> Option<&str> {
    ["severity", "urgency"].iter().find_map(|key| specific.get(key)?.as_str())
}

/// The summary, else the first line of the details.
fn summary(summary: Option<&str>, details: Option<&str>) -> String {
    let text = summary.map(str::trim).filter(|text| !text.is_empty());
    let text = text.or_else(|| {
        details?.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))
    });
    let text = text.unwrap_or_default();
    match text.char_indices().nth(SUMMARY_CHARS) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}
