//! One run: plan, apply, report. A run that was cut off anywhere is gone on with when its event comes again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use mecapy_bus::{Bus, Delivery, Handler, HandlerError, Outcome, Outgoing, topology};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::CleanupRequested;
use mecapy_registry::{Digest, Inventory, Registry};
use mecapy_store::cleanup_items::{self, Item};
use mecapy_store::cleanup_runs::{self, Ended, Lock, Planned, Request, Run};
use mecapy_store::forecast::{Forecast, forecast};
use mecapy_store::registry_images::{self, Verdict};
use mecapy_store::{PgPool, storage_samples};

use crate::plan::{Plan, Policies, Snapshot, plan, reclaim};
use crate::planned_items::planned_items;
use crate::report::{Report, Totals, report};
use crate::waiting::WaitingTasks;
use crate::{Error, Options, metric_definitions as metrics, records, stock};

/// Between two looks whether another run has ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What was deleted can be put back for so long, while its blobs are there.
const KEPT_FOR: chrono::Duration = chrono::Duration::days(30);
/// Days of samples that the trend goes by.
const TREND_DAYS: i32 = 90;
/// The next failure makes a dead letter of the message: replaying that goes on with the run.
const TRIES: u64 = topology::MAX_DELIVERIES - 1;
/// What was planned longer ago is not what is there now.
const PLAN_AGE: chrono::Duration = chrono::Duration::hours(24);
/// Rows of one statement.
const BATCH: usize = 5_000;

/// The handler of `cleanup.requested`.
pub struct Janitor {
    pub pool: PgPool,
    /// For the tasks that wait.
    pub bus: Bus,
    pub inventory: Arc<dyn Inventory>,
    pub primary: Registry,
    pub fallback: Option<Registry>,
    pub objects: Objects,
    pub options: Options,
    /// Names of the registries in references.
    pub hosts: Vec<String>,
}

impl Handler<CleanupRequested> for Janitor {
    async fn handle(
        &self,
        event: CleanupRequested,
        delivery: &Delivery,
    ) -> Result<Outcome, HandlerError> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if event.run_id.is_empty() || event.run_id.len() > 100 || !event.run_id.chars().all(is_name)
        {
            return Err(HandlerError::permanent("run_id must be 1 to 100 of a-z A-Z 0-9 - _ ."));
        }
        let lock = self.lock().await?;
        let ended = self.run(&event, &lock).await;
        if let Err(error) = &ended
            && !matches!(error, Error::Another(_))
        {
            let problem = mecapy_service::chain(error);
            // Whoever follows the run learns that nobody is at it any more.
            let is_over = error.is_final() || delivery.count >= TRIES;
            let told = cleanup_runs::hindered(&self.pool, &event.run_id, &problem, is_over).await;
            if let Err(error) = told {
                tracing::warn!(error = mecapy_service::chain(&error), "the run's row can't say so");
            }
            if is_over {
                metrics::runs("failed").increment(1);
            }
        }
        let outcome = ended?;
        // The end is committed after this: until then, the fence and the state keep others from doing it again.
        lock.release().await?;
        Ok(outcome)
    }
}

impl Janitor {
    /// One run at a time, over all replicas: waits for the others.
    async fn lock(&self) -> Result<Lock, Error> {
        loop {
            if let Some(lock) = Lock::try_take(&self.pool).await? {
                return Ok(lock);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn run(&self, event: &CleanupRequested, lock: &Lock) -> Result<Outcome, Error> {
        let is_undo = !event.undo.is_empty();
        let request = Request {
            id: &event.run_id,
            kind: if is_undo { "undo" } else { "cleanup" },
            dry_run: event.dry_run && !is_undo,
            confirmed: event.confirm,
            reason: &event.reason,
            target: &event.undo,
        };
        if let Some(known) = cleanup_runs::get(&self.pool, &event.run_id).await?
            && (known.kind.as_str(), known.target.as_str()) != (request.kind, request.target)
        {
            return Err(Error::Another(event.run_id.clone()));
        }
        let run = cleanup_runs::take(&self.pool, &request).await?;
        if run.has_ended() {
            return Ok(Outcome::nothing());
        }
        if run.kind == "cleanup" && run.planned_at.is_some_and(|at| Utc::now() - at > PLAN_AGE) {
            return Err(Error::Request(
                "its plan is older than a day: ask for a new one with `mecapy cleanup apply`"
                    .to_owned(),
            ));
        }
        if is_undo {
            self.run_undo(run, lock).await
        } else {
            self.run_cleanup(run, event, lock).await
        }
    }

    async fn run_cleanup(
        &self,
        run: Run,
        event: &CleanupRequested,
        lock: &Lock,
    ) -> Result<Outcome, Error> {
        let waiting = WaitingTasks::new(&self.bus, &self.pool);
        let (run, snapshot) = if run.has_plan() {
            tracing::info!(run.id = run.id, "a cleanup is gone on with");
            (run, stock::recall(&self.pool).await?)
        } else {
            let snapshot = self.make_plan(&run, event, &waiting).await?;
            let planned = cleanup_runs::get(&self.pool, &run.id).await?;
            (planned.ok_or(Error::Overtaken)?, snapshot)
        };
        if !run.dry_run && run.stopped.is_empty() {
            self.apply(&run, lock, &waiting).await?;
        }
        self.finish(run, &snapshot).await
    }

    /// Inventory, records, plan; and the plan into the rows, whole.
    async fn make_plan(
        &self,
        run: &Run,
        event: &CleanupRequested,
        waiting: &WaitingTasks<'_>,
    ) -> Result<Snapshot, Error> {
        let policies = self.options.policies.with(&event.policy_overrides)?;
        let snapshot = stock::take(&*self.inventory, &self.pool, self.options.concurrency).await?;
        let now = Utc::now();
        let usage = records::usage(&self.pool, waiting, now).await?;
        let plan = plan(&snapshot, &usage, &policies, now);
        self.record_verdicts(run, &snapshot, &policies, &plan).await?;
        let stopped = if run.confirmed { None } else { plan.exceeds(self.options.max_percent) };
        let planned = Planned {
            images_seen: signed(snapshot.len() as u64),
            storage_bytes: signed(plan.reclaim.total_bytes),
            images: signed(plan.removals.len() as u64),
            bytes: signed(plan.reclaim.freed_bytes),
            stopped: stopped.unwrap_or_default(),
        };
        let items = planned_items(&snapshot, &policies, &plan);
        if !cleanup_runs::plan(&self.pool, &run.id, run.fence, &planned, &items).await? {
            return Err(Error::Overtaken);
        }
        tracing::info!(
            run.id = run.id,
            images_seen = planned.images_seen,
            images_to_delete = planned.images,
            bytes_to_free = planned.bytes,
            dry_run = run.dry_run,
            stopped = planned.stopped,
            "the cleanup is planned"
        );
        Ok(snapshot)
    }

    /// So that whoever asks about an image finds what the newest plan said of it.
    async fn record_verdicts(
        &self,
        run: &Run,
        snapshot: &Snapshot,
        policies: &Policies,
        plan: &Plan,
    ) -> Result<(), Error> {
        let mut verdicts = Vec::with_capacity(BATCH.min(snapshot.len()));
        let mut ids = snapshot.ids().peekable();
        while let Some(id) = ids.next() {
            let decision = plan.decision(id);
            verdicts.push(Verdict {
                repository: snapshot.repository(id).to_owned(),
                digest: snapshot.digest(id).to_string(),
                tags: snapshot.tags(id).collect::<Vec<_>>().join(","),
                action: if decision.is_deleted { "delete" } else { "keep" },
                rule: decision.rule.as_str(),
                reason: plan.reason(snapshot, policies, id),
            });
            if verdicts.len() == BATCH || ids.peek().is_none() {
                registry_images::record_verdicts(&self.pool, &run.id, &verdicts).await?;
                verdicts.clear();
            }
        }
        Ok(())
    }

    async fn finish(&self, run: Run, snapshot: &Snapshot) -> Result<Outcome, Error> {
        let items = cleanup_items::items(&self.pool, &run.id).await?;
        let is_applied = !run.dry_run && run.stopped.is_empty();
        let (freed_bytes, storage_used_bytes) = if is_applied {
            freed(snapshot, &items)
        } else {
            (run.planned_bytes.unsigned_abs(), run.storage_bytes.unsigned_abs())
        };
        if !run.dry_run {
            storage_samples::record(&self.pool, signed(storage_used_bytes)).await?;
        }
        let forecast = self.forecast().await?;
        let (kept_by_rule, without_policy) = registry_images::kept(&self.pool).await?;
        let totals = Totals {
            kept_by_rule,
            without_policy,
            freed_bytes,
            storage_used_bytes,
            storage_limit_bytes: self.options.storage_limit_bytes,
            forecast,
        };
        let report = report(&run, &items, totals);
        let report_key = self.keep(&report).await?;
        cleanup_runs::forget_old(&self.pool, KEPT_FOR).await?;
        if !run.dry_run {
            show(storage_used_bytes, forecast, &self.options);
        }
        if is_applied {
            metrics::space_freed_bytes().set(freed_bytes as f64);
        }
        metrics::runs(match (run.dry_run, is_applied) {
            (true, _) => "dry_run",
            (false, true) => "applied",
            (false, false) => "stopped",
        })
        .increment(1);
        tracing::info!(
            run.id = run.id,
            images_deleted = if is_applied { report.images_deleted } else { 0 },
            images_skipped = report.images_skipped,
            bytes_freed = if is_applied { freed_bytes } else { 0 },
            storage_used_bytes,
            "the cleanup has ended"
        );
        let done = report.done(&report_key);
        let ended = Ended {
            freed_bytes: if is_applied { signed(freed_bytes) } else { 0 },
            storage_bytes: signed(storage_used_bytes),
            days_until_limit: done.days_until_limit.and_then(|days| i32::try_from(days).ok()),
            report_key,
        };
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                let is_ended = cleanup_runs::finish(conn, &run.id, &ended).await?;
                Ok(if is_ended { Outgoing::event(&done) } else { Outgoing::none() })
            })
        }))
    }

    async fn forecast(&self) -> Result<Option<Forecast>, Error> {
        let samples = storage_samples::list(&self.pool, TREND_DAYS).await?;
        Ok(forecast(&samples, self.options.storage_limit_bytes))
    }

    /// The report on S3; its key.
    async fn keep(&self, report: &Report) -> Result<String, Error> {
        let key = Key::cleanup_report(&report.run_id, "report.json");
        self.objects.put(&key, Bytes::from(serde_json::to_vec_pretty(report)?)).await?;
        let text = Key::cleanup_report(&report.run_id, "report.txt");
        self.objects.put(&text, Bytes::from(report.text())).await?;
        Ok(key.to_string())
    }

    async fn run_undo(&self, run: Run, lock: &Lock) -> Result<Outcome, Error> {
        let items = self.undoable(&run.target).await?;
        let done_before = cleanup_items::undone(&self.pool, &run.id).await?.len();
        if items.is_empty() && done_before == 0 {
            return Err(Error::Request(format!(
                "nothing that was deleted is known of {}: see `mecapy cleanup history`",
                run.target
            )));
        }
        if !run.has_plan() {
            let planned = Planned { images: signed(items.len() as u64), ..Planned::default() };
            if !cleanup_runs::plan(&self.pool, &run.id, run.fence, &planned, &[]).await? {
                return Err(Error::Overtaken);
            }
        }
        self.undo(&run, &items, lock).await?;
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                cleanup_runs::finish(conn, &run.id, &Ended::default()).await?;
                Ok(Outgoing::none())
            })
        }))
    }
}

/// What the newest sample says: whichever replica made the last run, all show what it found.
pub(crate) async fn show_last_sample(pool: &PgPool, options: &Options) -> Result<(), Error> {
    let samples = storage_samples::list(pool, TREND_DAYS).await?;
    metrics::storage_limit_bytes().set(options.storage_limit_bytes as f64);
    if let Some((_, bytes)) = samples.last() {
        let forecast = forecast(&samples, options.storage_limit_bytes);
        show(bytes.unsigned_abs(), forecast, options);
    }
    Ok(())
}

/// The bytes that a run freed, and those that are left. What was gone before the run came to it was not freed by it.
fn freed(snapshot: &Snapshot, items: &[Item]) -> (u64, u64) {
    let without = |states: &[&str]| {
        let gone: HashSet<(&str, Digest)> = items
            .iter()
            .filter(|item| item.action == "delete" && states.contains(&item.state.as_str()))
            .filter_map(|item| Some((item.repository.as_str(), item.digest.parse().ok()?)))
            .collect();
        reclaim(snapshot, |id| {
            !gone.is_empty() && gone.contains(&(snapshot.repository(id), snapshot.digest(id)))
        })
    };
    let (gone, before) = (without(&["done", "absent"]), without(&["absent"]));
    (gone.freed_bytes - before.freed_bytes, gone.total_bytes - gone.freed_bytes)
}

fn show(storage_used_bytes: u64, forecast: Option<Forecast>, options: &Options) {
    metrics::storage_used_bytes().set(storage_used_bytes as f64);
    metrics::storage_limit_bytes().set(options.storage_limit_bytes as f64);
    let days = forecast.and_then(|forecast| forecast.days);
    metrics::days_until_limit().set(days.map_or(f64::INFINITY, f64::from));
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
