//! What follows from a try. Pure.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mecapy_store::deliveries::Verdict;
use mecapy_webhooks::cloud_event::TEST_TYPE;

/// After the first failure, the second, …: the example of Standard Webhooks, as far as a day goes.
const DELAYS: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(5 * 60 * 60),
    Duration::from_secs(10 * 60 * 60),
];
/// Longer is not waited for a receiver's sake.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(6 * 60 * 60);

/// What a receiver answered, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// None: it did not.
    pub status: Option<u16>,
    /// How long it asked to be left alone.
    pub retry_after: Option<Duration>,
}

/// A delivery at the end of a try.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing<'a> {
    pub event_type: &'a str,
    /// Tries of this day, this one among them.
    pub tries: i32,
    pub give_up_at: DateTime<Utc>,
}

/// `jitter` is 0 to 1: receivers that failed together are not called together.
pub(crate) fn decide(
    answer: &Answer,
    standing: Standing<'_>,
    now: DateTime<Utc>,
    jitter: f64,
) -> Verdict {
    match answer.status {
        Some(200..=299) => return Verdict::Delivered,
        Some(410) => return Verdict::Gone,
        _ => {}
    }
    if now >= standing.give_up_at {
        // Nobody waits for a test that failed.
        return Verdict::Dead { letter: standing.event_type != TEST_TYPE };
    }
    let nth = usize::try_from(standing.tries).unwrap_or_default().saturating_sub(1);
    let delay = DELAYS[nth.min(DELAYS.len() - 1)].mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 5.0);
    let asked = match answer.status {
        Some(429 | 503) => answer.retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER),
        _ => Duration::ZERO,
    };
    let at = now + TimeDelta::from_std(delay.max(asked)).unwrap_or(TimeDelta::MAX);
    // The last try is at the end of the day.
    Verdict::Retry { at: at.min(standing.give_up_at) }
}

/// `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(value).ok()?;
    (date.with_timezone(&Utc) - now).to_std().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn status(status: u16) -> Answer {
        Answer { status: Some(status), retry_after: None }
    }

    fn standing(tries: i32) -> Standing<'static> {
        Standing { event_type: "push.done", tries, give_up_at: at(86_400) }
    }

    #[test]
    fn a_day_of_failures_is_tried_as_standard_webhooks_has_it_and_then_given_up() {
        let (mut now, mut tries, mut tried_at) = (0, 1, vec![0]);
        let verdict = loop {
            match decide(&status(500), standing(tries), at(now), 0.0) {
                Verdict::Retry { at: next } => {
                    now = (next - DateTime::UNIX_EPOCH).num_seconds();
                    tried_at.push(now);
                    tries += 1;
                }
                verdict => break verdict,
            }
        };
        assert_eq!(tried_at, [0, 5, 305, 2_105, 9_305, 27_305, 63_305, 86_400]);
        assert_eq!(verdict, Verdict::Dead { letter: true });
    }

    #[test]
    fn only_2xx_is_a_success_and_410_is_the_end() {
        for success in [200, 202, 204, 299] {
            assert_eq!(decide(&status(success), standing(1), at(0), 0.5), Verdict::Delivered);
        }
        for failure in [100, 199, 300, 301, 302, 307, 308, 400, 401, 404, 409, 429, 500, 503, 599] {
            let verdict = decide(&status(failure), standing(1), at(0), 0.5);
            assert!(matches!(verdict, Verdict::Retry { .. }), "{failure}");
        }
        assert_eq!(decide(&status(410), standing(1), at(0), 0.5), Verdict::Gone);
        let silent = decide(&Answer::default(), standing(1), at(0), 0.5);
        assert!(matches!(silent, Verdict::Retry { .. }));
    }

    #[test]
    fn a_receiver_may_ask_for_time_within_bounds() {
        let asked = |status, seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            decide(&Answer { status: Some(status), retry_after }, standing(1), at(0), 0.0)
        };
        assert_eq!(asked(429, 120), Verdict::Retry { at: at(120) });
        assert_eq!(asked(503, 120), Verdict::Retry { at: at(120) });
        assert_eq!(asked(429, 1), Verdict::Retry { at: at(5) }, "not sooner than we would");
        assert_eq!(asked(429, u64::MAX), Verdict::Retry { at: at(6 * 3_600) }, "not for ever");
        assert_eq!(asked(500, 120), Verdict::Retry { at: at(5) }, "only where it means something");
    }

    #[test]
    fn retry_after_is_read_in_both_its_forms() {
        let now = "2015-10-21T07:27:00Z".parse().unwrap();
        let read = |text| retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(read(" 120 "), Some(120));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(60));
        assert_eq!(read("Wed, 21 Oct 2015 07:26:00 GMT"), None, "that has passed");
        for nonsense in ["", "-5", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_test_that_failed_is_no_dead_letter() {
        let test = Standing { event_type: TEST_TYPE, tries: 1, give_up_at: at(0) };
        assert_eq!(decide(&status(500), test, at(0), 0.0), Verdict::Dead { letter: false });
    }

    proptest! {
        #[test]
        fn the_next_try_is_later_than_now_and_never_after_the_day(
            code in 0_u16..1_000, tries in -3_i32..1_000, now in 0_i64..200_000,
            wait in any::<Option<u64>>(), jitter: f64,
        ) {
            let answer = Answer { status: Some(code), retry_after: wait.map(Duration::from_secs) };
            match decide(&answer, standing(tries), at(now), jitter) {
                Verdict::Retry { at: next } => {
                    prop_assert!(next > at(now) && next <= at(86_400));
                }
                Verdict::Dead { .. } => prop_assert!(now >= 86_400),
                Verdict::Delivered => prop_assert!((200..300).contains(&code)),
                Verdict::Gone => prop_assert_eq!(code, 410),
            }
        }
    }
}
