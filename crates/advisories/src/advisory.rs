//! One advisory, less its prose.

use chrono::{DateTime, Utc};

#[derive(Debug, Clone, PartialEq)]
pub struct Advisory {
    pub id: Box<str>,
    /// Other names of the same flaw, sorted.
    pub aliases: Box<[Box<str>]>,
    /// A distribution's notice (DSA, DLA) about several flaws, of which this is one. No name of the flaw: it would
    /// make one of all of them.
    pub notice: Option<Box<str>>,
    pub summary: Box<str>,
    pub published: Option<DateTime<Utc>>,
}

impl Advisory {
    /// Every name of the flaw.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.id).chain(self.aliases.iter().map(|alias| &**alias))
    }
}
