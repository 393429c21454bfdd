//! How old the copy is, for whoever is woken by it.

use std::time::Duration;

use mecapy_service::chain;
use mecapy_store::{PgPool, mirror_choice};
use tokio_util::sync::CancellationToken;

use crate::metric_definitions as metrics;

const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Keeps the gauges up to date until the service stops.
pub async fn watch_lag(pool: PgPool, window_days: u32, shutdown: CancellationToken) {
    loop {
        match mirror_choice::lag(&pool, window_days).await {
            Ok(lag) => {
                // Without a first complete run there is no lag that could be told; the other gauge shows it.
                if let Some(seconds) = lag.since_complete_s {
                    metrics::lag_seconds().set(seconds);
                }
                metrics::oldest_unmirrored_seconds().set(lag.oldest_unmirrored_s);
            }
            Err(error) => tracing::debug!(error = chain(&error), "the lag is not known"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
