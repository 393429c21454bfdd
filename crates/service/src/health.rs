//! What a service waits for, in words.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::metric_definitions as metrics;

/// The conditions under which a service is ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

/// One of them: not met until it says so.
#[derive(Debug, Clone)]
pub struct Condition {
    health: Health,
    name: &'static str,
}

impl Health {
    /// Adds a condition, not met yet.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { health: self.clone(), name };
        condition.set(Err("starting".to_owned()));
        condition
    }

    /// What is not met, with the reason.
    pub fn missing(&self) -> BTreeMap<&'static str, String> {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        conditions
            .iter()
            .filter_map(|(name, state)| state.as_ref().err().map(|reason| (*name, reason.clone())))
            .collect()
    }
}

impl Condition {
    pub fn met(&self) {
        self.set(Ok(()));
    }

    pub fn missing(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    /// Logs a change once, however often it is told.
    fn set(&self, state: Result<(), String>) {
        let mut conditions = self.health.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = conditions.insert(self.name, state.clone());
        drop(conditions);
        if before.as_ref() == Some(&state) {
            return;
        }
        metrics::condition(self.name, state.is_ok());
        match state {
            Ok(()) => tracing::info!(condition = self.name, "{} is there", self.name),
            Err(reason) => {
                tracing::warn!(condition = self.name, reason, "waiting for {}", self.name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ready_when_nothing_is_missing() {
        let health = Health::default();
        let nats = health.condition("nats");
        let postgres = health.condition("postgres");
        nats.met();
        postgres.missing("connection refused");
        assert_eq!(
            health.missing(),
            BTreeMap::from([("postgres", "connection refused".to_owned())])
        );
        postgres.met();
        assert!(health.missing().is_empty());
    }
}
