//! Rows that have had their use.

use std::time::Duration;

use mecapy_store::leftovers::{self, Leftover};
use mecapy_store::stalled;

use super::{Error, Report, Sweeps};

/// Of one kind in one sweep: what is left, the next one has.
const MAX_BATCHES: usize = 100;
/// A row that waits for so long has no service that sends it.
const UNSENT_AFTER: Duration = Duration::from_secs(60 * 60);

pub(super) async fn sweep(sweeps: &Sweeps, report: &mut Report) -> Result<(), Error> {
    let options = &sweeps.options;
    for (what, leftover, days) in [
        ("inbox_rows", Leftover::Inbox, options.inbox_days),
        ("usage_rows", Leftover::Usage, options.usage_days),
        ("layer_index_rows", Leftover::LayerIndexes, options.layer_index_days),
        ("kept_event_rows", Leftover::KeptEvents, 0),
        ("delivery_rows", Leftover::Deliveries, options.delivery_days),
    ] {
        for _ in 0..MAX_BATCHES {
            let (gone, more) = leftovers::delete(&sweeps.pool, leftover, days).await?;
            report.count(what, gone);
            if !more {
                break;
            }
        }
    }
    let unsent = stalled::unsent(&sweeps.pool, UNSENT_AFTER).await?;
    if unsent > 0 {
        // Never deleted: each is an event that somebody waits for.
        tracing::warn!(
            rows = unsent,
            "messages wait in the outbox for over an hour: is their service running?"
        );
    }
    Ok(())
}
