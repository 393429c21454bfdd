//! The registries that images come from, and which of them is asked first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mecapy_bus::RegistryStatus;
use mecapy_proto::v1::CacheOutcome;
use mecapy_registry::Registry;

use crate::breaker::{Breaker, Turn};
use crate::metric_definitions as metrics;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const PING_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub primary: Source,
    pub fallback: Option<Source>,
    /// For one pull from one of them.
    pub limit: Duration,
}

/// A registry, and whether it can be reached. Cheap to clone; clones share what they know.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub registry: Registry,
    /// primary or fallback.
    pub role: &'static str,
    pub outcome: CacheOutcome,
    breaker: Arc<Mutex<Breaker>>,
}

impl Sources {
    pub(crate) fn new(primary: Registry, fallback: Option<Registry>, limit: Duration) -> Self {
        Self {
            primary: Source::new(primary, "primary", CacheOutcome::Miss),
            fallback: fallback
                .map(|fallback| Source::new(fallback, "fallback", CacheOutcome::Failover)),
            limit,
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(&self.primary).chain(&self.fallback)
    }

    pub(crate) fn hosts(&self) -> Vec<&str> {
        self.all().map(|source| source.registry.host()).collect()
    }

    pub(crate) fn status(&self) -> Vec<RegistryStatus> {
        self.all()
            .map(|source| RegistryStatus {
                host: source.registry.host().to_owned(),
                breaker: source.breaker().name().to_owned(),
            })
            .collect()
    }

    /// Pings those that could not be reached, for as long as the process runs.
    pub(crate) async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            for source in self.all() {
                metrics::breaker(source.role, source.breaker().name());
                if source.breaker().wants_ping(Instant::now()) {
                    source.ping().await;
                }
            }
        }
    }
}

impl Source {
    fn new(registry: Registry, role: &'static str, outcome: CacheOutcome) -> Self {
        Self { registry, role, outcome, breaker: Arc::default() }
    }

    pub(crate) fn turn(&self) -> Turn {
        self.breaker().turn(Instant::now())
    }

    /// Whether there is nothing against asking it.
    pub(crate) fn is_closed(&self) -> bool {
        self.breaker().is_closed()
    }

    pub(crate) fn succeeded(&self) {
        let mut breaker = self.breaker();
        if !breaker.is_closed() {
            tracing::info!(registry = self.registry.host(), "a registry answers again");
        }
        breaker.succeeded();
    }

    pub(crate) fn failed(&self) {
        let mut breaker = self.breaker();
        if breaker.is_closed() {
            tracing::warn!(
                registry = self.registry.host(),
                "a registry can't be reached; until it answers, it is asked after the others"
            );
        }
        breaker.failed(Instant::now());
    }

    /// It was slow to give something. Whether that is all, or it gives nothing any more, a ping tells.
    pub(crate) fn was_slow(&self) {
        let source = self.clone();
        tokio::spawn(async move {
            if !source.answers().await {
                source.failed();
            }
        });
    }

    async fn ping(&self) {
        if self.answers().await {
            self.breaker().answered_ping();
        } else {
            self.breaker().failed(Instant::now());
        }
    }

    async fn answers(&self) -> bool {
        match tokio::time::timeout(PING_WITHIN, self.registry.ping()).await {
            Ok(Ok(())) => true,
            // Where it says no, it is there.
            Ok(Err(error)) => !error.is_transient(),
            Err(_) => false,
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
