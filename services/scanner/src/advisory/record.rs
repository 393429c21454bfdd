//! A record of the OSV schema, as far as it is read. <https://ossf.github.io/osv-schema/>

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::range::{Affected, Event};
use super::{Advisory, database};
use crate::package::normalise_pypi_name;
use crate::severity::Rating;

/// What a summary is cut to when it is taken from the details, in characters.
const SUMMARY_CHARS: usize = 160;

#[derive(Debug, Deserialize)]
pub struct Record {
    id: String,
    pub modified: DateTime<Utc>,
    pub withdrawn: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    aliases: Vec<String>,
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

impl Record {
    /// The advisory, and the PyPI packages that it is about. Empty when it is about none.
    pub fn into_parts(self) -> (Advisory, Vec<(Box<str>, database::Entry)>) {
        let own = own_word(&self.database_specific);
        let vectors: Vec<&str> =
            self.severity.iter().map(|severity| severity.score.as_str()).collect();
        let rating = Rating::of(own, vectors.iter().copied());

        let mut aliases = self.aliases;
        aliases.retain(|alias| *alias != self.id);
        aliases.sort_unstable();
        aliases.dedup();
        let summary = summary(self.summary.as_deref(), self.details.as_deref());
        let mut advisory = Advisory {
            id: self.id.into(),
            aliases: aliases.into_iter().map(Into::into).collect(),
            summary: summary.into(),
            rating,
        };
        // Nobody rates malware, and nothing is worse.
        let malware = advisory.is_malware();
        if malware {
            advisory.rating = Rating::CRITICAL;
        }

        let mut packages = Vec::new();
        for affected in self.affected {
            let Some(package) =
                affected.package.as_ref().filter(|package| package.ecosystem == "PyPI")
            else {
                continue;
            };
            let own =
                own_word(&affected.ecosystem_specific).or(own_word(&affected.database_specific));
            let vectors = affected.severity.iter().map(|severity| severity.score.as_str());
            let rating = Rating::of(own, vectors);
            let rating =
                if malware || rating == Rating::default() { advisory.rating } else { rating };
            let ranges: Vec<Vec<Event>> = affected
                .ranges
                .iter()
                .filter(|range| range.kind == "ECOSYSTEM")
                .map(RangeRecord::events)
                .collect();
            let versions = Affected::new(&ranges, &affected.versions);
            packages.push((
                normalise_pypi_name(&package.name).into(),
                database::Entry::new(versions, rating),
            ));
        }
        (advisory, packages)
    }
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

fn own_word(specific: &Value) -> Option<&str> {
    specific.get("severity").and_then(Value::as_str)
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
