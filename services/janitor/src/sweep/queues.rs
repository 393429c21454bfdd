//! Whether a message that is missed may still be in its queue.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mecapy_bus::topology::Durable;
use mecapy_bus::{Bus, waiting};

use super::Error;

/// Looks at each consumer once a sweep.
pub(super) struct Queues<'a> {
    bus: &'a Bus,
    grace: Duration,
    oldest: HashMap<&'static str, Option<DateTime<Utc>>>,
}

impl<'a> Queues<'a> {
    pub(super) fn new(bus: &'a Bus, grace: Duration) -> Self {
        Self { bus, grace, oldest: HashMap::new() }
    }

    /// Whether a message that was sent at about `sent_at` is surely not waiting, nor being handled.
    pub(super) async fn is_lost(
        &mut self,
        durable: Durable,
        sent_at: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let oldest = match self.oldest.get(durable.name) {
            Some(oldest) => *oldest,
            None => {
                let oldest = waiting::oldest(self.bus, durable).await?;
                self.oldest.insert(durable.name, oldest);
                oldest
            }
        };
        // What waited in an outbox while NATS was away is stored much later than it was written.
        Ok(is_past(sent_at.max(self.bus.connected_since()), oldest, self.grace))
    }
}

/// The queue has gone past a message if the oldest that waits was stored after it. The grace is for clocks, and for
/// the way from the outbox to the stream.
fn is_past(sent_at: DateTime<Utc>, oldest: Option<DateTime<Utc>>, grace: Duration) -> bool {
    let grace = TimeDelta::from_std(grace).unwrap_or(TimeDelta::MAX);
    oldest.is_none_or(|oldest| oldest.signed_duration_since(sent_at) > grace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_behind_the_oldest_that_waits_is_not_lost() {
        let sent = Utc::now();
        let grace = Duration::from_secs(600);
        let minutes = |minutes| Some(sent + TimeDelta::minutes(minutes));
        assert!(is_past(sent, None, grace));
        assert!(is_past(sent, minutes(11), grace));
        assert!(!is_past(sent, minutes(0), grace), "it may be this one");
        assert!(!is_past(sent, minutes(9), grace), "it may have been long on its way");
        assert!(!is_past(sent, minutes(-60), grace), "a long queue");
    }
}
