//! Waiting for a condition, never for a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Calls `probe` until it gives a value, at first often and then every half second.
///
/// Panics with `what` when there is none `within` that time, so `what` reads as the
/// thing that should have come: "the build is ready".
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        if start.elapsed() >= within {
            panic!("not within {within:?}: {what}");
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}
