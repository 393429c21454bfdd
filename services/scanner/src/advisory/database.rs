//! Advisories, found by package.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::range::{Affected, Installed};
use super::record::Record;
use super::{Advisory, import};
use crate::Error;
use crate::severity::{Rating, Severity};

/// Written by hand: a few well-known advisories, so that there is something to find before a database is imported.
const STARTER: &str = include_str!("../../data/starter.json");
const STARTER_SOURCE: &str = "starter set";

/// What a database is made of, for reports and for those who run the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The path it was read from, or that it is the starter set.
    pub source: String,
    /// The newest change in it, and the start of a hash of what it holds: equal versions, equal advisories.
    pub version: String,
    /// It knows few advisories: what passes with it may well have more.
    pub partial: bool,
    /// The newest change to a record, leaving out those dated in the future. The database's age counts from here:
    /// a file's own time says when it was copied.
    pub newest: Option<DateTime<Utc>>,
    /// Everything read.
    pub records: usize,
    /// Of these: taken back by their authors, and so not matched.
    pub withdrawn: usize,
    /// Of these: about no version of a PyPI package.
    pub elsewhere: usize,
    /// Of these: dated in the future.
    pub from_the_future: usize,
    /// What is matched.
    pub advisories: usize,
    pub packages: usize,
}

/// The versions of a package that an advisory is about.
#[derive(Debug, Clone)]
pub struct Entry {
    advisory: usize,
    versions: Affected,
    rating: Rating,
}

impl Entry {
    pub fn new(versions: Affected, rating: Rating) -> Self {
        Self { advisory: 0, versions, rating }
    }
}

/// An advisory that holds for an installed version.
#[derive(Debug, Clone)]
pub struct Hit<'a> {
    pub advisory: &'a Advisory,
    /// For this package: an advisory about several can rate each.
    pub rating: Rating,
    pub fixed: Option<String>,
}

#[derive(Debug)]
pub struct Database {
    advisories: Vec<Advisory>,
    packages: HashMap<Box<str>, Vec<Entry>>,
    info: Info,
}

impl Database {
    /// The set that comes with the program.
    pub fn starter() -> Result<Self, Error> {
        Self::of_records(STARTER)
    }

    /// A partial database, of a JSON list of OSV records.
    pub(crate) fn of_records(json: &str) -> Result<Self, Error> {
        let records: Vec<Record> = serde_json::from_str(json)
            .map_err(|source| Error::DatabaseRecord { name: STARTER_SOURCE.to_owned(), source })?;
        let mut builder = Builder::default();
        for record in records {
            builder.add(record);
        }
        let mut database = builder.finish(STARTER_SOURCE, Utc::now())?;
        database.info.partial = true;
        Ok(database)
    }

    /// Reads an export of an OSV database: a zip of records, a record, or a folder of these.
    /// Where a record has no severity and the starter set knows the flaw, the starter set's is taken.
    pub fn load(path: &std::path::Path, now: DateTime<Utc>) -> Result<Self, Error> {
        let mut builder = Builder::default();
        import::read(path, &mut |record| builder.add(record))?;
        let mut database = builder.finish(&path.display().to_string(), now)?;
        database.rate_unknown_by(&Self::starter()?);
        Ok(database)
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    pub fn advisories(&self) -> &[Advisory] {
        &self.advisories
    }

    /// Whether it may still be used. The starter set doesn't age: that it is partial is said in every result.
    pub fn check_age(&self, now: DateTime<Utc>, limit: chrono::Duration) -> Result<(), Error> {
        if self.info.partial {
            return Ok(());
        }
        match self.info.newest {
            Some(newest) if now - newest <= limit => Ok(()),
            Some(newest) => Err(Error::DatabaseTooOld { newest, limit_days: limit.num_days() }),
            None => Err(Error::DatabaseEmpty { path: self.info.source.clone() }),
        }
    }

    /// The advisories for a package, by its normalised name, at a version.
    pub fn hits<'a>(
        &'a self,
        name: &str,
        installed: &'a Installed,
    ) -> impl Iterator<Item = Hit<'a>> {
        let entries = self.packages.get(name).map(Vec::as_slice).unwrap_or_default();
        entries.iter().filter(|entry| entry.versions.contains(installed)).filter_map(|entry| {
            Some(Hit {
                advisory: self.advisories.get(entry.advisory)?,
                rating: entry.rating,
                fixed: entry.versions.fixed_after(installed),
            })
        })
    }

    fn rate_unknown_by(&mut self, other: &Self) {
        for (name, known) in &other.packages {
            for entry in self.packages.get_mut(name).into_iter().flatten() {
                let Some(advisory) = self.advisories.get(entry.advisory) else { continue };
                if entry.rating.severity != Severity::Unknown {
                    continue;
                }
                let same = |known: &&Entry| {
                    other.advisories.get(known.advisory).is_some_and(|other| {
                        other.names().any(|name| advisory.names().any(|own| own == name))
                    })
                };
                if let Some(known) = known.iter().find(same) {
                    entry.rating = known.rating;
                }
            }
        }
    }
}

/// Takes records one at a time, and keeps of each no more than matching needs.
#[derive(Default)]
struct Builder {
    advisories: Vec<Advisory>,
    packages: HashMap<Box<str>, Vec<Entry>>,
    modified: Vec<DateTime<Utc>>,
    withdrawn: usize,
    elsewhere: usize,
    hash: Sha256,
}

impl Builder {
    fn add(&mut self, record: Record) {
        self.modified.push(record.modified);
        let (withdrawn, modified) = (record.withdrawn.is_some(), record.modified);
        let (advisory, packages) = record.into_parts();
        self.hash.update(advisory.id.as_bytes());
        self.hash.update(modified.timestamp_micros().to_be_bytes());
        if withdrawn {
            self.withdrawn += 1;
            return;
        }
        let index = self.advisories.len();
        let mut used = false;
        for (name, entry) in packages {
            if !entry.versions.is_empty() {
                self.packages.entry(name).or_default().push(Entry { advisory: index, ..entry });
                used = true;
            }
        }
        if used {
            self.advisories.push(advisory);
        } else {
            self.elsewhere += 1;
        }
    }

    fn finish(self, source: &str, now: DateTime<Utc>) -> Result<Database, Error> {
        if self.advisories.is_empty() {
            return Err(Error::DatabaseEmpty { path: source.to_owned() });
        }
        let newest = self.modified.iter().copied().filter(|modified| *modified <= now).max();
        let day = newest.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true);
        let hash = hex::encode(&self.hash.finalize()[..4]);
        let info = Info {
            source: source.to_owned(),
            version: format!("{day}-{hash}"),
            partial: false,
            newest,
            records: self.modified.len(),
            withdrawn: self.withdrawn,
            elsewhere: self.elsewhere,
            from_the_future: self.modified.iter().filter(|modified| **modified > now).count(),
            advisories: self.advisories.len(),
            packages: self.packages.len(),
        };
        let mut advisories = self.advisories;
        advisories.shrink_to_fit();
        Ok(Database { advisories, packages: self.packages, info })
    }
}

#[cfg(test)]
mod tests;
