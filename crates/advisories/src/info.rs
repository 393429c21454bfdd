//! What a database is made of, for reports and for those who run the service.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::{Error, ecosystem};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// What it was imported from, or that it is the starter set.
    pub sources: Vec<String>,
    /// The newest change in it, and the start of a hash of what it holds: equal versions, equal advisories.
    pub version: String,
    /// It knows few advisories: what passes with it may well have more.
    pub partial: bool,
    pub imported_at: DateTime<Utc>,
    /// The newest change to a record, leaving out those dated in the future.
    pub newest: Option<DateTime<Utc>>,
    /// Everything read.
    pub records: usize,
    /// Of these: taken back by their authors, and so not matched.
    pub withdrawn: usize,
    /// Of these: about no version of a package of an ecosystem that is read.
    pub elsewhere: usize,
    /// Of these: dated in the future.
    pub from_the_future: usize,
    /// Of these: there already, in the same or a newer form.
    pub repeated: usize,
    /// What is matched.
    pub advisories: usize,
    pub packages: usize,
    /// `PyPI`, `Debian:12`.
    pub ecosystems: BTreeMap<String, EcosystemInfo>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcosystemInfo {
    pub advisories: usize,
    pub packages: usize,
    pub newest: Option<DateTime<Utc>>,
}

impl Info {
    /// The family of ecosystems (PyPI, Debian, Alpine) that has waited longest for news, and its newest advisory. The
    /// database is as old as that: one that is brought up to date daily doesn't make up for one that isn't. A file's
    /// own time says when it was copied, and single releases of a distribution can be quiet for long.
    pub fn oldest(&self) -> Option<(&str, DateTime<Utc>)> {
        let mut families: BTreeMap<&str, Option<DateTime<Utc>>> = BTreeMap::new();
        for (name, ecosystem) in &self.ecosystems {
            let newest = families.entry(ecosystem::family(name)).or_default();
            *newest = (*newest).max(ecosystem.newest);
        }
        families
            .into_iter()
            .map(|(family, newest)| (family, newest.unwrap_or_default()))
            .min_by_key(|(_, newest)| *newest)
    }

    /// How old it is. `None`: the starter set, which doesn't age; that it is partial is said in every result.
    pub fn age(&self, now: DateTime<Utc>) -> Option<Duration> {
        let (_, newest) = self.oldest().filter(|_| !self.partial)?;
        Some(now - newest)
    }

    /// Whether it may still be used.
    pub fn check_age(&self, now: DateTime<Utc>, limit: Duration) -> Result<(), Error> {
        if self.partial {
            return Ok(());
        }
        match self.oldest() {
            Some((_, newest)) if now - newest <= limit => Ok(()),
            Some((family, newest)) => Err(Error::DatabaseTooOld {
                family: family.to_owned(),
                newest,
                limit_days: limit.num_days(),
            }),
            None => Err(Error::DatabaseEmpty { path: self.sources.join(", ") }),
        }
    }
}
