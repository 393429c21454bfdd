//! Trying again where the work done so far is worth it.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};

/// From 0.2 s to 5 s, about 75 s in all: longer than a server takes to be started again.
fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(18)
        .with_jitter()
}

/// Does it until it succeeds, or the patience ends.
pub(crate) async fn patiently<T, E, F>(
    what: &'static str,
    attempt: impl FnMut() -> F,
) -> Result<T, E>
where
    E: std::error::Error,
    F: Future<Output = Result<T, E>>,
{
    attempt
        .retry(backoff())
        .notify(|error, wait| {
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(wait_ms, error = mecapy_service::chain(error), "{what} is tried again");
        })
        .await
}
