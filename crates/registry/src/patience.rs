//! How long a registry is waited for. One that sends a byte now and then is no better than one that sends none.

use std::time::Duration;

use tokio::time::Instant;

/// Fewer bytes than these are no sign of life: 273 a second with the default patience.
pub(crate) const LEAST: u64 = 16 * 1024;

/// The waiting that is left of what may be spent until [`LEAST`] bytes have moved. What whoever reads does in between
/// does not count.
pub(crate) struct Patience {
    whole: Duration,
    left: Duration,
    moved: u64,
}

impl Patience {
    pub(crate) fn new(whole: Duration) -> Self {
        Self { whole, left: whole, moved: 0 }
    }

    pub(crate) fn whole(&self) -> Duration {
        self.whole
    }

    /// `None`: it is at its end.
    pub(crate) async fn wait<T>(&mut self, reading: impl Future<Output = T>) -> Option<T> {
        let began = Instant::now();
        let read = tokio::time::timeout(self.left, reading).await.ok();
        self.left = self.left.saturating_sub(began.elapsed());
        read
    }

    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
        if self.moved >= LEAST {
            *self = Self::new(self.whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const WHOLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_renew_it() {
        let mut patience = Patience::new(WHOLE);
        let mut bytes = 0;
        while patience.wait(sleep(Duration::from_secs(7))).await.is_some() {
            patience.moved(1);
            bytes += 1;
        }
        assert_eq!(bytes, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_moves_is_waited_for_and_the_readers_own_time_does_not_count() {
        let mut patience = Patience::new(WHOLE);
        for _ in 0..100 {
            patience.wait(sleep(Duration::from_secs(50))).await.unwrap();
            patience.moved(16 * 1024);
            advance(WHOLE * 2).await;
        }
    }
}
