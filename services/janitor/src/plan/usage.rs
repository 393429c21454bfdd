//! What our own records say is needed. Pulls by scanner, mirror or workers are no use and not in here.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use mecapy_registry::Digest;

/// Why an image can't go, whatever its policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// A queued or running task runs it.
    Task,
    /// A build in flight left it, or stands on it.
    Build,
    /// A live function runs it.
    Current,
    /// A live function is built on it.
    Base,
    /// Somebody put it back a short time ago.
    PutBack,
}

impl Need {
    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A function, as the registry is concerned with it.
#[derive(Debug, Clone, Default)]
pub struct Function {
    pub is_live: bool,
    pub current: Option<Digest>,
    /// A build of it is about to move tags.
    pub is_publishing: bool,
}

/// The records of one moment.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// The end of the last day on which a task or a build used it.
    pub last_used: HashMap<Digest, DateTime<Utc>>,
    /// In whichever repository.
    pub digests: Vec<(Digest, Need)>,
    /// (repository, tag)
    pub tags: Vec<(String, String, Need)>,
    pub functions: HashMap<i64, Function>,
}

/// The function whose images a repository holds: `…/user-{owner}-func-{id}`.
pub fn function_of(repository: &str) -> Option<i64> {
    let (user, id) = repository.rsplit('/').next()?.rsplit_once("-func-")?;
    user.starts_with("user-").then(|| id.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_names_its_function() {
        assert_eq!(function_of("mecapy/functions/user-acme-func-7"), Some(7));
        assert_eq!(function_of("mecapy/functions/user-a-func-b-func-12"), Some(12));
        for other in ["mecapy/base/python", "mecapy/functions/user-a-func-x", "x-func-1", ""] {
            assert_eq!(function_of(other), None, "{other}");
        }
    }
}
