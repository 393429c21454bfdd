//! Locks that were resolved a short while ago, in memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::lock::Lock;

/// At most this many are kept; a lock has some 10 to 100 kB.
const MAX_ENTRIES: usize = 200;

#[derive(Debug)]
pub struct Resolutions {
    ttl: Duration,
    entries: Mutex<HashMap<String, (Instant, Lock)>>,
}

impl Resolutions {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, entries: Mutex::default() }
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub fn get(&self, key: &str) -> Option<Lock> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(key)
            .filter(|(resolved, _)| resolved.elapsed() < self.ttl)
            .map(|(_, lock)| lock.clone())
    }

    /// `age`: how long ago it was resolved.
    pub fn put(&self, key: String, lock: Lock, age: Duration) {
        let Some(resolved) = Instant::now().checked_sub(age) else { return };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, (resolved, _)| resolved.elapsed() < self.ttl);
        if entries.len() >= MAX_ENTRIES
            && let Some(oldest) = entries
                .iter()
                .min_by_key(|(_, (resolved, _))| *resolved)
                .map(|(key, _)| key.clone())
        {
            entries.remove(&oldest);
        }
        entries.insert(key, (resolved, lock));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(version: usize) -> Lock {
        Lock::parse(&format!("a=={version} --hash=sha256:{}", "0".repeat(64))).unwrap()
    }

    #[test]
    fn a_resolution_is_found_until_its_time_is_over() {
        let resolutions = Resolutions::new(Duration::from_secs(3600));
        resolutions.put("a".into(), lock(1), Duration::ZERO);
        assert_eq!(resolutions.get("a"), Some(lock(1)));
        assert_eq!(resolutions.get("b"), None);
        let none = Resolutions::new(Duration::ZERO);
        none.put("a".into(), lock(1), Duration::ZERO);
        assert_eq!(none.get("a"), None);
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let resolutions = Resolutions::new(Duration::from_secs(3600));
        for i in 0..=MAX_ENTRIES {
            resolutions.put(i.to_string(), lock(i), Duration::ZERO);
        }
        assert_eq!(resolutions.get("0"), None);
        assert!(
            resolutions.get("1").is_some() && resolutions.get(&MAX_ENTRIES.to_string()).is_some()
        );
    }
}
