//! Workers: who is there, and the orders that one takes no more tasks.

use chrono::Utc;
use mecapy_bus::{DrainOrder, WorkerStatus};
use mecapy_store::audit;
use serde_json::json;

use super::{Api, act};
use crate::view::workers::Worker;
use crate::{Caller, Error};

impl Api {
    /// Those that live, and those that are to take no tasks when they come back; by name.
    pub(crate) async fn workers(&self, caller: &Caller) -> Result<Vec<Worker>, Error> {
        caller.must_see_all()?;
        let system = &self.0.system;
        let (live, orders) = tokio::try_join!(system.workers().list(), system.drains().list())?;
        Ok(together(live, orders))
    }

    /// Orders that a worker takes no more tasks. It hears of it in a moment, finishes what it has, and then says that
    /// it is drained.
    pub(crate) async fn drain_worker(&self, caller: &Caller, name: &str) -> Result<Worker, Error> {
        self.order(caller, name, true).await
    }

    /// Lifts the order.
    pub(crate) async fn resume_worker(&self, caller: &Caller, name: &str) -> Result<Worker, Error> {
        self.order(caller, name, false).await
    }

    async fn order(&self, caller: &Caller, name: &str, drain: bool) -> Result<Worker, Error> {
        caller.must_operate()?;
        let unknown = || Error::NotFound(format!("worker {name:?}: see which there are"));
        let find = |workers: Vec<Worker>| workers.into_iter().find(|worker| worker.name == name);
        let worker = find(self.workers(caller).await?).ok_or_else(unknown)?;
        let is_new = worker.drain.is_some() != drain;
        let action = if drain { "drain-worker" } else { "resume-worker" };
        // It is NATS's: the row is there before, so that nothing happens that is not on record.
        let row = audit::begin(&self.0.pool, &act(caller, action, name, json!({}))).await?;
        let drains = self.0.system.drains();
        let result = match (is_new, drain) {
            (false, true) => Ok(()),
            (true, true) => {
                let (worker, by) = (name.to_owned(), caller.owner.to_string());
                drains.give(&DrainOrder { worker, by, at: Utc::now() }).await
            }
            // Also where none was seen: somebody may have given one just now, or one that can't be read.
            (_, false) => drains.lift(name).await,
        };
        let outcome = match &result {
            Ok(()) if is_new => "done".to_owned(),
            Ok(()) => "it was so already".to_owned(),
            Err(error) => error.to_string(),
        };
        audit::settle(&self.0.pool, row, &outcome).await?;
        tracing::info!(worker = name, owner = %caller.owner, outcome, "{action} {name}");
        result?;
        // Whoever looks now sees it.
        self.0.system.forget().await;
        Ok(find(self.workers(caller).await?).unwrap_or(worker))
    }
}

/// What workers say, beside what was ordered.
fn together(live: Vec<WorkerStatus>, mut orders: Vec<DrainOrder>) -> Vec<Worker> {
    let mut workers: Vec<Worker> = Vec::with_capacity(live.len());
    for status in live {
        let order = orders.iter().position(|order| order.worker == status.name);
        let order = order.map(|index| orders.swap_remove(index));
        workers.push(Worker::that_lives(&status, order));
    }
    workers.extend(orders.into_iter().map(Worker::that_is_away));
    workers.sort_by(|one, two| one.name.cmp(&two.name));
    workers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_shown_with_its_worker_whether_that_has_heard_of_it_or_is_there_at_all() {
        let status = |name: &str, is_draining| WorkerStatus {
            name: name.to_owned(),
            slots: 2,
            running: 1,
            is_draining,
            ..WorkerStatus::default()
        };
        let order = |name: &str| DrainOrder { worker: name.to_owned(), ..DrainOrder::default() };
        let live = vec![status("b", false), status("a", false), status("d", true)];
        let shown = together(live, vec![order("b"), order("c"), order("d")]);
        let shown: Vec<_> = shown
            .iter()
            .map(|worker| (worker.name.as_str(), worker.state, worker.drain.is_some()))
            .collect();
        assert_eq!(
            shown,
            [
                ("a", "free", false),
                ("b", "draining", true),
                ("c", "away", true),
                ("d", "draining", true)
            ]
        );
    }
}
