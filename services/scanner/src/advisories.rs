//! The database that scans use: the file that is configured, taken up anew whenever it was replaced.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use chrono::{DateTime, Utc};
use mecapy_advisories::{Database, Error};

/// Which file it was: one that took its place by rename is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

#[derive(Debug, Default)]
struct Current {
    database: Option<Arc<Database>>,
    identity: Option<Identity>,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Advisories {
    /// `None`: the starter set.
    path: Option<PathBuf>,
    max_age: chrono::Duration,
    current: Arc<RwLock<Current>>,
}

impl Advisories {
    /// What is at the path, as soon as something is; without a path, what comes with the program.
    pub fn new(path: Option<PathBuf>, max_age: chrono::Duration) -> Result<Self, Error> {
        let database = match path {
            Some(_) => None,
            None => Some(Arc::new(Database::starter()?)),
        };
        let current = Arc::new(RwLock::new(Current { database, identity: None }));
        Ok(Self { path, max_age, current })
    }

    /// A database that never changes.
    pub fn fixed(database: Database, max_age: chrono::Duration) -> Self {
        let current = Current { database: Some(Arc::new(database)), identity: None };
        Self { path: None, max_age, current: Arc::new(RwLock::new(current)) }
    }

    /// Opens the file if it is another than the one in use, and says whether it was. What can't be opened leaves the
    /// one in use where it is: it ends by its age.
    pub fn refresh(&self) -> Result<bool, Error> {
        let Some(path) = &self.path else { return Ok(false) };
        let found = fs::metadata(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::DatabaseMissing { path: path.clone() },
            _ => Error::DatabaseFile { path: path.clone(), source },
        })?;
        let identity = Identity {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        };
        if self.read().identity == Some(identity) {
            return Ok(false);
        }
        let database = Arc::new(Database::open(path)?);
        let mut current = self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *current = Current { database: Some(database), identity: Some(identity) };
        Ok(true)
    }

    /// The database, if it may be used now.
    pub fn current(&self, now: DateTime<Utc>) -> Result<Arc<Database>, Error> {
        let database = self.read().database.clone();
        let Some(database) = database else {
            let path = self.path.clone().unwrap_or_default();
            return Err(Error::DatabaseMissing { path });
        };
        database.info().check_age(now, self.max_age)?;
        Ok(database)
    }

    /// The database, whether it may be used or not.
    pub fn latest(&self) -> Option<Arc<Database>> {
        self.read().database.clone()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{Duration, TimeZone as _};
    use mecapy_advisories::{import, replace};

    use super::*;

    fn then() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2025, 10, 4, 0, 0, 0).unwrap()
    }

    fn put(path: &std::path::Path, id: &str) {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("x.json");
        let json = format!(
            r#"{{"id": "{id}", "modified": "2025-10-04T00:00:00Z",
                "affected": [{{"package": {{"ecosystem": "PyPI", "name": "demo"}}, "versions": ["1"]}}]}}"#
        );
        fs::write(&record, json).unwrap();
        replace(path, &import(&[record], Vec::new(), then()).unwrap(), true).unwrap();
    }

    #[test]
    fn a_database_that_comes_or_is_replaced_is_taken_up_and_one_that_is_damaged_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("advisories.db");
        let advisories = Advisories::new(Some(path.clone()), Duration::days(7)).unwrap();
        assert!(matches!(advisories.refresh(), Err(Error::DatabaseMissing { .. })));
        assert!(matches!(advisories.current(then()), Err(Error::DatabaseMissing { .. })));

        put(&path, "A");
        assert!(advisories.refresh().unwrap());
        assert!(!advisories.refresh().unwrap(), "it is the same");
        let first = advisories.current(then()).unwrap();
        put(&path, "B");
        assert!(advisories.refresh().unwrap());
        let second = advisories.current(then()).unwrap();
        assert_ne!(first.info().version, second.info().version);

        fs::write(&path, "not a database").unwrap();
        assert!(advisories.refresh().is_err());
        assert_eq!(advisories.current(then()).unwrap().info(), second.info());
        assert!(matches!(
            advisories.current(then() + Duration::days(8)),
            Err(Error::DatabaseTooOld { .. })
        ));
    }
}
