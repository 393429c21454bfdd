//! Signs of life of every service's replicas, in a key-value bucket: what is there was said lately.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_service::Context;
use serde::{Deserialize, Serialize};

use crate::bucket::{Bucket, key};
use crate::topology::REPLICAS;
use crate::{Bus, Error};

/// A third of [`crate::topology::SILENCE`]: two may be lost.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// What a replica says of itself. An older or newer one may say less or more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaStatus {
    pub service: String,
    /// Its name among the replicas of its service.
    pub replica: String,
    pub version: String,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    /// What it waits for, with the reason; empty: it is ready.
    pub waiting_for: BTreeMap<String, String>,
    /// It takes no more work.
    pub is_stopping: bool,
}

#[derive(Debug)]
pub struct Replicas(Bucket);

impl Replicas {
    pub fn new(bus: Bus) -> Self {
        Self(Bucket::new(bus, REPLICAS))
    }

    /// Says that a replica lives, and how. Forgotten after [`crate::topology::SILENCE`].
    pub async fn tell(&self, status: &ReplicaStatus) -> Result<(), Error> {
        let name = format!("{}.{}", key(&status.service), key(&status.replica));
        self.0.put_value(name, status).await
    }

    /// All that live, by service and name.
    pub async fn list(&self) -> Result<Vec<ReplicaStatus>, Error> {
        let mut replicas: Vec<ReplicaStatus> = self.0.values().await?;
        replicas
            .sort_by(|one, two| (&one.service, &one.replica).cmp(&(&two.service, &two.replica)));
        Ok(replicas)
    }

    /// Tells of this process until it ends.
    pub(crate) async fn beat(self, context: Context) {
        let started_at = Utc::now();
        loop {
            let missing = context.health.missing();
            let status = ReplicaStatus {
                service: context.service.to_owned(),
                replica: context.replica.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at,
                seen_at: Utc::now(),
                waiting_for: missing
                    .into_iter()
                    .map(|(name, reason)| (name.to_owned(), reason))
                    .collect(),
                is_stopping: context.shutdown.is_cancelled(),
            };
            if let Err(error) = self.tell(&status).await {
                // Readiness tells of NATS; this is not worth more than a line for who looks.
                tracing::debug!(%error, "a sign of life was not sent");
            }
            tokio::select! {
                () = tokio::time::sleep(BEAT_EVERY) => {}
                // At once, that it stops.
                () = context.shutdown.cancelled(), if !status.is_stopping => {}
            }
        }
    }
}
