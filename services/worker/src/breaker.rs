//! Whether a registry is asked in its turn, or after the others. Pure: the time is given.
//!
//! ```text
//! closed ─ it can't be reached ─▶ open ─ after a pause, it answers a ping ─▶ half-open ─ one pull succeeds ─▶ closed
//!                                  ▲ ◀── it does not, and the pause doubles ──╯  │
//!                                  ╰───────────── that pull fails ───────────────╯
//! ```
//!
//! No task is spent on finding out whether a registry is back: the ping is nobody's.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A trial that says nothing for so long was given up by who made it.
const TRIAL_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// A ping is under way.
    Probed {
        since: Instant,
    },
    HalfOpen,
    /// One pull tries it.
    Tried {
        since: Instant,
    },
}

/// Whether to ask a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// As ever.
    Usual,
    /// Once, and what comes of it decides.
    Trial,
    /// Only when no other could help.
    Last,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    pause: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, pause: FIRST_PAUSE }
    }
}

impl Breaker {
    pub(crate) fn turn(&mut self, now: Instant) -> Turn {
        match self.state {
            State::Closed => Turn::Usual,
            State::HalfOpen => {
                self.state = State::Tried { since: now };
                Turn::Trial
            }
            State::Tried { since } if now >= since + TRIAL_WITHIN => {
                self.state = State::Tried { since: now };
                Turn::Trial
            }
            State::Open { .. } | State::Probed { .. } | State::Tried { .. } => Turn::Last,
        }
    }

    /// Whether it is time to ping it; true for one caller.
    pub(crate) fn wants_ping(&mut self, now: Instant) -> bool {
        let due = match self.state {
            State::Open { until } => now >= until,
            State::Probed { since } => now >= since + TRIAL_WITHIN,
            _ => false,
        };
        if due {
            self.state = State::Probed { since: now };
        }
        due
    }

    pub(crate) fn answered_ping(&mut self) {
        if matches!(self.state, State::Probed { .. }) {
            self.state = State::HalfOpen;
        }
    }

    /// It did what was asked, or said for good that it can't.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It could not be reached, or did not answer in time.
    pub(crate) fn failed(&mut self, now: Instant) {
        match self.state {
            // Those that were under way when it opened say nothing new.
            State::Open { .. } => {}
            State::Closed => self.state = State::Open { until: now + self.pause },
            State::Probed { .. } | State::HalfOpen | State::Tried { .. } => {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.state = State::Open { until: now + self.pause };
            }
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// As a worker tells it, and its metric.
    pub(crate) fn name(&self) -> &'static str {
        match self.state {
            State::Closed => "closed",
            State::Open { .. } | State::Probed { .. } => "open",
            State::HalfOpen | State::Tried { .. } => "half-open",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_registry_that_fails_is_asked_last_until_it_answers_and_one_pull_succeeds() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        assert_eq!(breaker.turn(now), Turn::Usual);
        breaker.failed(now);
        breaker.failed(now);
        assert_eq!((breaker.turn(now), breaker.name()), (Turn::Last, "open"));
        assert!(!breaker.wants_ping(now));
        let later = now + FIRST_PAUSE;
        assert_eq!(breaker.turn(later), Turn::Last, "a pause alone proves nothing");
        assert!(breaker.wants_ping(later) && !breaker.wants_ping(later));
        breaker.answered_ping();
        assert_eq!(breaker.name(), "half-open");
        assert_eq!((breaker.turn(later), breaker.turn(later)), (Turn::Trial, Turn::Last));
        breaker.succeeded();
        assert_eq!((breaker.turn(later), breaker.name()), (Turn::Usual, "closed"));
    }

    #[test]
    fn each_trial_that_fails_doubles_the_pause() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        breaker.failed(now);
        for pause in [5, 10, 20, 40, 60, 60] {
            let pause = Duration::from_secs(pause);
            assert!(!breaker.wants_ping(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(breaker.wants_ping(now));
            breaker.failed(now);
        }
    }

    #[test]
    fn a_trial_of_which_nothing_comes_is_made_again() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.failed(now);
        assert!(breaker.wants_ping(now + FIRST_PAUSE));
        breaker.answered_ping();
        assert_eq!(breaker.turn(now), Turn::Trial);
        assert_eq!(breaker.turn(now + TRIAL_WITHIN), Turn::Trial);
    }

    proptest! {
        #[test]
        fn of_those_who_ask_while_it_is_not_closed_at_most_one_is_let_through_at_a_time(
            steps in prop::collection::vec((0u8..5, 0u64..20), 0..200),
        ) {
            let (mut breaker, mut now) = (Breaker::default(), Instant::now());
            let mut trial: Option<Instant> = None;
            for (step, seconds) in steps {
                now += Duration::from_secs(seconds);
                match step {
                    0 => match breaker.turn(now) {
                        Turn::Trial => {
                            prop_assert!(trial.is_none_or(|since| now >= since + TRIAL_WITHIN));
                            trial = Some(now);
                        }
                        Turn::Usual => prop_assert_eq!(breaker.name(), "closed"),
                        Turn::Last => prop_assert_ne!(breaker.name(), "closed"),
                    },
                    1 => { breaker.wants_ping(now); }
                    2 => breaker.answered_ping(),
                    3 => { breaker.succeeded(); trial = None; }
                    _ => { breaker.failed(now); trial = None; }
                }
            }
        }
    }
}
