//! So many in a second, and no more.

use std::time::Instant;

/// A bucket of tokens, which holds what comes in a second. It begins full.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, tokens: per_second, at: now }
    }

    /// Whether there is one more now.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.tokens = self.per_second.min(self.tokens + since.as_secs_f64() * self.per_second);
        let there_is = self.tokens >= 1.0;
        if there_is {
            self.tokens -= 1.0;
        }
        there_is
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many of `asked` are taken within a time, evenly spread.
    fn taken(bucket: &mut Bucket, from: Instant, within: Duration, asked: u32) -> u32 {
        let at = |nth| from + within * nth / asked;
        u32::try_from((0..asked).filter(|nth| bucket.take(at(*nth))).count()).unwrap()
    }

    #[test]
    fn all_are_taken_up_to_the_rate_and_no_more_above_it() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut quiet = Bucket::new(100, start);
        assert_eq!(taken(&mut quiet, start, 10 * second, 900), 900);
        let mut busy = Bucket::new(100, start);
        let all = taken(&mut busy, start, 10 * second, 10_000);
        assert!((1_090..=1_100).contains(&all), "ten seconds, and what it began with: {all}");
        // After a pause there is a second's worth, however long it was.
        let later = start + 3_600 * second;
        assert_eq!(taken(&mut busy, later, Duration::ZERO, 1_000), 100);
    }

    #[test]
    fn a_clock_that_seems_to_go_back_gives_nothing() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut bucket = Bucket::new(1, later);
        assert!(bucket.take(later));
        assert!(!bucket.take(start) && !bucket.take(later));
        assert!(bucket.take(later + Duration::from_secs(1)));
    }
}
