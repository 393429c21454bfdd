//! How hard one registry is pressed: blobs in flight at once, a gate that shuts when the registry asks for
//! patience, and a cap on what is sent.
//!
//! All calls of a [`crate::Registry`] and its clones share one pace. The number of streams halves when the registry
//! says that it is busy, and grows back by about one for each round of streams that end well.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metric_definitions as metrics;

/// Streams at once for one registry, at most.
pub(crate) const MAX_STREAMS: u32 = 10;
/// One busy moment is told by many streams, and counts once.
const ONE_MOMENT: Duration = Duration::from_secs(1);
/// For how long a registry may shut the gate. One that wants more has its failures handed to the callers.
const MAX_SHUT: Duration = Duration::from_secs(30);
/// With a cap, what may be sent ahead of its time.
const BURST: Duration = Duration::from_millis(250);

pub(crate) struct Pace {
    host: String,
    bytes_per_second: Option<u64>,
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    limit: f64,
    streams: u32,
    eased_at: Option<Instant>,
    shut_until: Option<Instant>,
    /// When what was let through is paid for.
    paid_at: Instant,
}

impl State {
    fn has_room(&self) -> bool {
        f64::from(self.streams) + 1.0 <= self.limit
    }

    fn ease(&mut self, now: Instant) {
        if self.eased_at.is_none_or(|at| now - at >= ONE_MOMENT) {
            self.limit = (self.limit / 2.0).max(1.0);
            self.eased_at = Some(now);
        }
    }

    fn grow(&mut self) {
        self.limit = (self.limit + 1.0 / self.limit).min(f64::from(MAX_STREAMS));
    }

    fn shut(&mut self, now: Instant, wait: Duration) {
        let until = now + wait.min(MAX_SHUT);
        self.shut_until = Some(self.shut_until.map_or(until, |at| at.max(until)));
    }

    /// How long to hold these bytes back.
    fn pay(&mut self, now: Instant, bytes: u64, per_second: u64) -> Duration {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let cost = Duration::from_secs_f64(bytes as f64 / per_second.max(1) as f64);
        self.paid_at = self.paid_at.max(earliest) + cost;
        self.paid_at.saturating_duration_since(now)
    }
}

/// The right to one stream; given back when dropped.
pub(crate) struct Slot(Arc<Pace>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state().streams -= 1;
        self.0.freed.notify_one();
    }
}

impl Pace {
    pub(crate) fn new(host: &str, bytes_per_second: Option<u64>) -> Arc<Self> {
        let state = State {
            limit: f64::from(MAX_STREAMS),
            streams: 0,
            eased_at: None,
            shut_until: None,
            paid_at: Instant::now(),
        };
        metrics::stream_limit(host, state.limit);
        Arc::new(Self {
            host: host.to_owned(),
            bytes_per_second,
            state: Mutex::new(state),
            freed: Notify::new(),
        })
    }

    /// Waits for a free stream.
    pub(crate) async fn slot(self: &Arc<Self>) -> Slot {
        loop {
            let freed = self.freed.notified();
            {
                let mut state = self.state();
                if state.has_room() {
                    state.streams += 1;
                    if state.has_room() {
                        // A limit that has grown has room for more than the one that was woken.
                        self.freed.notify_one();
                    }
                    return Slot(Arc::clone(self));
                }
            }
            freed.await;
        }
    }

    /// Waits while the gate is shut.
    pub(crate) async fn open(&self) {
        loop {
            let until = self.state().shut_until;
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// The registry answered 429 or 503.
    pub(crate) fn busy(&self, retry_after: Option<Duration>) {
        let mut state = self.state();
        let now = Instant::now();
        state.ease(now);
        if let Some(wait) = retry_after {
            state.shut(now, wait);
        }
        self.tell(state.limit);
    }

    /// It named a wait only after it was found busy.
    pub(crate) fn shut(&self, wait: Duration) {
        self.state().shut(Instant::now(), wait);
    }

    /// A stream ended well.
    pub(crate) fn fine(&self) {
        let mut state = self.state();
        state.grow();
        self.tell(state.limit);
    }

    /// Waits until the cap lets these bytes through.
    pub(crate) async fn spend(&self, bytes: u64) {
        let Some(per_second) = self.bytes_per_second else { return };
        let wait = self.state().pay(Instant::now(), bytes, per_second);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn tell(&self, limit: f64) {
        metrics::stream_limit(&self.host, limit.floor());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_busy_registry_gets_half_the_streams_and_one_moment_counts_once() {
        let pace = Pace::new("host", None);
        for _ in 0..5 {
            pace.busy(None);
        }
        let slots: Vec<_> = (0..5).map(|_| pace.slot().now_or_never().unwrap()).collect();
        assert!(pace.slot().now_or_never().is_none());
        tokio::time::advance(ONE_MOMENT).await;
        pace.busy(None);
        drop(slots);
        let slots: Vec<_> = (0..2).map(|_| pace.slot().now_or_never().unwrap()).collect();
        assert!(pace.slot().now_or_never().is_none());
        for _ in 0..100 {
            pace.fine();
        }
        let more: Vec<_> = (0..8).map(|_| pace.slot().now_or_never().unwrap()).collect();
        assert!(pace.slot().now_or_never().is_none());
        drop((slots, more));
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_waits_at_the_gate_for_as_long_as_was_asked_and_not_for_ever() {
        let pace = Pace::new("host", None);
        pace.busy(Some(Duration::from_secs(7)));
        pace.busy(Some(Duration::from_secs(2)));
        let began = Instant::now();
        pace.open().await;
        assert!(began.elapsed() >= Duration::from_secs(7), "{:?}", began.elapsed());
        pace.busy(Some(Duration::from_secs(86_400)));
        let began = Instant::now();
        pace.open().await;
        assert!(began.elapsed() < MAX_SHUT + ONE_MOMENT, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cap_is_kept_over_time() {
        let pace = Pace::new("host", Some(1_000_000));
        let began = Instant::now();
        for _ in 0..50 {
            pace.spend(100_000).await;
        }
        let took = began.elapsed().as_secs_f64();
        assert!((4.7..5.1).contains(&took), "{took}");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_stream_gets_the_next_one() {
        let pace = Pace::new("host", None);
        let all: Vec<_> = (0..MAX_STREAMS).map(|_| pace.slot().now_or_never().unwrap()).collect();
        let waiting = tokio::spawn({
            let pace = Arc::clone(&pace);
            async move { drop(pace.slot().await) }
        });
        tokio::task::yield_now().await;
        drop(all);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    }

    proptest! {
        #[test]
        fn the_limit_stays_between_one_and_ten(busy in proptest::collection::vec(any::<bool>(), 0..200)) {
            let mut now = Instant::now();
            let mut state = State {
                limit: f64::from(MAX_STREAMS), streams: 0, eased_at: None, shut_until: None, paid_at: now,
            };
            for busy in busy {
                now += ONE_MOMENT;
                if busy { state.ease(now) } else { state.grow() }
                prop_assert!((1.0..=10.0).contains(&state.limit));
            }
        }
    }
}
