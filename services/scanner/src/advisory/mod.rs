//! Advisories: which versions of which packages have which flaw, and how bad it is.

mod database;
mod import;
mod range;
mod record;

use serde::{Deserialize, Serialize};

pub use database::{Database, Hit, Info};
pub use range::{Affected, Installed};

use crate::severity::Rating;

/// One advisory, less its prose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advisory {
    pub id: Box<str>,
    /// Other names of the same flaw, sorted.
    pub aliases: Box<[Box<str>]>,
    pub summary: Box<str>,
    pub rating: Rating,
}

impl Advisory {
    /// Every name of the flaw.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.id).chain(self.aliases.iter().map(|alias| &**alias))
    }

    /// Whether it reports a package made to do harm, rather than one with a flaw.
    pub fn is_malware(&self) -> bool {
        self.names().any(|name| name.starts_with("MAL-"))
    }
}
