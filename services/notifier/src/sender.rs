//! Takes what is due from the table, and tries it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use mecapy_service::{Context, chain};
use mecapy_store::deliveries::{self, Attempt, Claim, Claimed, Verdict};
use mecapy_store::{PgPool, webhooks};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::attempt::Caller;
use crate::schedule::{self, Standing};
use crate::{Options, PATIENCE, metric_definitions as metrics};

/// What became due without a wake-up, or in another replica, is seen this late at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Beyond the limit of a try: for writing down how it went.
const LEASE_SLACK: Duration = Duration::from_secs(15);
const SHOW_EVERY: Duration = Duration::from_secs(15);
/// How long the end of a try is tried to be written down.
const RECORD_TRIES: u32 = 5;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    caller: Caller,
    options: Options,
    wake: Arc<Notify>,
    /// Tries that this process makes now, by webhook.
    under_way: Mutex<HashMap<Uuid, u32>>,
}

impl Sender {
    pub(crate) fn new(pool: PgPool, caller: Caller, options: Options, wake: Arc<Notify>) -> Self {
        Self(Arc::new(Inner { pool, caller, options, wake, under_way: Mutex::default() }))
    }

    /// Sends until the service is told to stop, and what is under way has ended. What is cut off then is another
    /// replica's when its lease is over.
    pub(crate) async fn keep_sending(&self, context: &Context) {
        let trying = TaskTracker::new();
        while !context.shutdown.is_cancelled() {
            let claimed = match self.claim().await {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "nothing can be taken to be delivered");
                    Vec::new()
                }
            };
            if claimed.is_empty() {
                tokio::select! {
                    () = context.shutdown.cancelled() => {}
                    () = self.0.wake.notified() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
            for claimed in claimed {
                let under_way = UnderWay::begin(self, claimed.webhook_id);
                trying.spawn(async move {
                    under_way.sender.attempt(&claimed).await;
                });
            }
        }
        trying.close();
        tokio::select! {
            () = trying.wait() => {}
            () = context.hand_back.cancelled() => {}
        }
    }

    async fn claim(&self) -> Result<Vec<Claimed>, mecapy_store::Error> {
        let under_way: Vec<(Uuid, u32)> =
            self.under_way().iter().map(|(id, number)| (*id, *number)).collect();
        let busy: u32 = under_way.iter().map(|(_, number)| number).sum();
        let most = self.0.options.concurrency.saturating_sub(busy);
        if most == 0 {
            return Ok(Vec::new());
        }
        let claim = Claim {
            most,
            per_owner: self.0.options.per_owner(),
            per_webhook: self.0.options.per_webhook,
            under_way: &under_way,
            lease: self.0.options.timeout() + LEASE_SLACK,
        };
        deliveries::claim(&self.0.pool, claim).await
    }

    async fn attempt(&self, claimed: &Claimed) {
        let (began_at, began) = (Utc::now(), Instant::now());
        let outcome = self.0.caller.call(claimed).await;
        let (now, took) = (Utc::now(), began.elapsed());
        let standing = Standing {
            event_type: &claimed.event_type,
            tries: claimed.round_attempt,
            give_up_at: claimed.give_up_at,
        };
        // The clock's nanoseconds are random enough to keep replicas apart.
        let jitter = f64::from(now.timestamp_subsec_nanos() % 1_000) / 1_000.0;
        let verdict = schedule::decide(&outcome.answer, standing, now, jitter);
        metrics::attempt_took(took);
        metrics::attempts(name(&verdict)).increment(1);
        let attempt = Attempt {
            attempt: claimed.attempt,
            began_at,
            duration_ms: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
            status: outcome.answer.status.map(i32::from),
            error: outcome.error,
        };
        tell(claimed, &attempt, &verdict);
        self.record(claimed, &attempt, &verdict).await;
    }

    /// Not written down, a try is made again when its lease is over: the receiver knows the message by its id.
    async fn record(&self, claimed: &Claimed, attempt: &Attempt, verdict: &Verdict) {
        for nth in 1..=RECORD_TRIES {
            match deliveries::record(&self.0.pool, claimed.id, attempt, verdict).await {
                Ok(true) => {
                    if matches!(verdict, Verdict::Dead { letter: true }) {
                        self.disable_failing(claimed, attempt).await;
                    }
                    return;
                }
                Ok(false) => {
                    tracing::info!(delivery.id = %claimed.id, "a try was overtaken by a newer one");
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        delivery.id = %claimed.id,
                        error = chain(&error),
                        "how a try went can't be written down yet"
                    );
                    tokio::time::sleep(Duration::from_secs(nth.into())).await;
                }
            }
        }
    }

    /// After a day that brought nothing. Not written down, it is when the next message is given up.
    async fn disable_failing(&self, claimed: &Claimed, attempt: &Attempt) {
        let error = attempt.error.as_deref().unwrap_or("no answer");
        match webhooks::disable_failing(&self.0.pool, claimed.webhook_id, PATIENCE, error).await {
            Ok(Some(reason)) => {
                tracing::warn!(webhook.id = %claimed.webhook_id, reason, "a webhook is disabled");
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(
                    webhook.id = %claimed.webhook_id,
                    error = chain(&error),
                    "whether a receiver has failed for days can't be seen now"
                );
            }
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Uuid, u32>> {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A try, counted for as long as it lasts.
struct UnderWay {
    sender: Sender,
    webhook: Uuid,
}

impl UnderWay {
    fn begin(sender: &Sender, webhook: Uuid) -> Self {
        *sender.under_way().entry(webhook).or_default() += 1;
        Self { sender: sender.clone(), webhook }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = self.sender.under_way();
        if let Some(number) = under_way.get_mut(&self.webhook) {
            *number = number.saturating_sub(1);
            if *number == 0 {
                under_way.remove(&self.webhook);
            }
        }
        drop(under_way);
        self.sender.0.wake.notify_one();
    }
}

const fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Delivered => "delivered",
        Verdict::Retry { .. } => "failed",
        Verdict::Dead { .. } => "given_up",
        Verdict::Gone => "gone",
    }
}

/// Never the URL: some have a key in it.
fn tell(claimed: &Claimed, attempt: &Attempt, verdict: &Verdict) {
    let (error, next) = (attempt.error.as_deref().unwrap_or_default(), name(verdict));
    match verdict {
        Verdict::Delivered => tracing::debug!(
            delivery.id = %claimed.id,
            webhook.id = %claimed.webhook_id,
            attempt = claimed.attempt,
            duration_ms = attempt.duration_ms,
            "a message is delivered"
        ),
        _ => tracing::info!(
            delivery.id = %claimed.id,
            webhook.id = %claimed.webhook_id,
            attempt = claimed.attempt,
            duration_ms = attempt.duration_ms,
            status = attempt.status,
            error,
            next,
            "a message is not delivered"
        ),
    }
}

pub(crate) async fn show_what_waits(pool: &PgPool, shutdown: &CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Ok((number, overdue)) = deliveries::waiting(pool).await {
            metrics::waiting(number, overdue);
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(SHOW_EVERY) => {}
        }
    }
}
