//! Orders of operators that a worker takes no more tasks, in a key-value bucket. An order stands until it is lifted,
//! whatever becomes of the worker meanwhile.

use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};

use crate::bucket::{Bucket, key};
use crate::topology::DRAINS;
use crate::{Bus, Error};

/// An older or newer version may say less or more. That it is there is the order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainOrder {
    /// The worker's name.
    pub worker: String,
    /// Who gave it.
    pub by: String,
    pub at: DateTime<Utc>,
}

#[derive(Debug)]
pub struct Drains(Bucket);

impl Drains {
    pub fn new(bus: Bus) -> Self {
        Self(Bucket::new(bus, DRAINS))
    }

    pub async fn give(&self, order: &DrainOrder) -> Result<(), Error> {
        self.0.put_value(key(&order.worker), order).await
    }

    /// Also where there is none.
    pub async fn lift(&self, worker: &str) -> Result<(), Error> {
        self.0.take_out(key(worker)).await
    }

    pub async fn is_given(&self, worker: &str) -> Result<bool, Error> {
        Ok(self.0.get(key(worker)).await?.is_some())
    }

    /// All that stand, by the workers' names.
    pub async fn list(&self) -> Result<Vec<DrainOrder>, Error> {
        let mut orders: Vec<DrainOrder> = self.0.values().await?;
        orders.sort_by(|one, two| one.worker.cmp(&two.worker));
        Ok(orders)
    }

    /// Whether a worker is to take no tasks, whenever that changes; first as it is, where an order was ever given. Ends
    /// when it can't go on.
    pub async fn watch(
        &self,
        worker: &str,
    ) -> Result<impl Stream<Item = bool> + Send + use<>, Error> {
        let changes = self.0.watch(&key(worker)).await?;
        Ok(changes.map(|change| change.body.is_some()).boxed())
    }
}
