//! One build on its way: the time that is left, its log, and whether it is still wanted.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::build_log::BuildLog;

pub struct Work<'a> {
    pub budget: Budget,
    pub log: &'a BuildLog,
    pub cancel: &'a CancellationToken,
}

impl Work<'_> {
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        unless_cancelled(self.cancel, work).await
    }
}

pub async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = T>,
) -> Result<T, Error> {
    tokio::select! {
        done = work => Ok(done),
        () = cancel.cancelled() => Err(Error::Cancelled),
    }
}

/// The time that is left for all steps of one build.
#[derive(Debug)]
pub struct Budget(Duration);

impl Budget {
    pub fn of(limit: Duration) -> Self {
        Self(limit)
    }

    pub fn left(&self) -> Duration {
        self.0
    }

    pub fn spend(&mut self, time: Duration) {
        self.0 = self.0.saturating_sub(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_build_is_shared_by_its_steps() {
        let mut budget = Budget::of(Duration::from_secs(10));
        budget.spend(Duration::from_secs(4));
        assert_eq!(budget.left(), Duration::from_secs(6));
        budget.spend(Duration::from_secs(40));
        assert_eq!(budget.left(), Duration::ZERO);
    }
}
