//! An operator's order that this worker takes no more tasks, and its end.
//!
//! The order is read before the first task is taken, and followed from then on. While NATS can't be reached, what was
//! ordered last holds.

use std::time::Duration;

use futures::StreamExt as _;
use mecapy_bus::{Bus, Drains, Flow, Pause};
use mecapy_service::Condition;

use crate::metric_definitions as metrics;
use crate::pool::Pool;

const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

pub(crate) struct Drain {
    bus: Bus,
    worker: String,
    parked: Pool,
    pause: Pause,
}

impl Drain {
    pub(crate) fn new(bus: Bus, worker: String, parked: Pool) -> Self {
        Self { bus, worker, parked, pause: Pause::default() }
    }

    /// What the consumer of tasks goes by.
    pub(crate) fn pause(&self) -> Pause {
        self.pause.clone()
    }

    /// Returns when it is known whether there is an order.
    pub(crate) async fn learn(&self, known: &Condition) {
        let drains = Drains::new(self.bus.clone());
        loop {
            match drains.is_given(&self.worker).await {
                Ok(is_given) => {
                    self.obey(is_given);
                    known.met();
                    return;
                }
                Err(error) => known.missing(error.to_string()),
            }
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    }

    /// Obeys orders as they are given and lifted, for as long as the process runs.
    pub(crate) async fn follow(self) {
        tokio::join!(self.listen(), self.tell());
    }

    async fn listen(&self) {
        let drains = Drains::new(self.bus.clone());
        loop {
            match drains.watch(&self.worker).await {
                Ok(mut orders) => {
                    while let Some(is_given) = orders.next().await {
                        self.obey(is_given);
                    }
                }
                Err(error) => tracing::debug!(%error, "orders are not heard"),
            }
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
            // What was lifted while nobody listened may have left no trace.
            if let Ok(is_given) = drains.is_given(&self.worker).await {
                self.obey(is_given);
            }
        }
    }

    fn obey(&self, is_given: bool) {
        if !self.pause.set(is_given) {
            return;
        }
        self.parked.rest(is_given);
        match is_given {
            true => tracing::info!(
                worker = self.worker,
                "takes no more tasks: an operator drains this worker"
            ),
            false => tracing::info!(worker = self.worker, "takes tasks again"),
        }
    }

    async fn tell(&self) {
        let mut flow = self.pause.subscribe();
        loop {
            let now = *flow.borrow_and_update();
            metrics::drained(now);
            if now == Flow::Rests {
                tracing::info!(worker = self.worker, "is drained: it has no task in hand");
            }
            if flow.changed().await.is_err() {
                return;
            }
        }
    }
}
