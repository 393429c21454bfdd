//! Trying again: how often, how long apart, and when the server says.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::{Error, metric_definitions as metrics};

/// Five more tries, about 6 to 12 s in all: enough for a restart of a proxy or a dropped
/// connection. Longer outages are the caller's to wait for, who can tell its user.
const MAX_RETRIES: usize = 5;
const MIN_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// A server that asks for a longer wait than this gets the failure handed to the caller, which can
/// give its work back meanwhile.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Runs `attempt` until it succeeds, fails for good, or was tried often enough.
pub(crate) async fn transient<T, F>(
    host: &str,
    operation: &'static str,
    attempt: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let backoff = ExponentialBuilder::new()
        .with_min_delay(MIN_DELAY)
        .with_max_delay(MAX_DELAY)
        .with_max_times(MAX_RETRIES)
        .with_jitter();
    attempt
        .retry(backoff)
        .when(Error::is_transient)
        .adjust(delay)
        .notify(|error, wait| {
            metrics::retried(host, operation);
            tracing::debug!(
                registry.host = host,
                registry.operation = operation,
                wait_ms = wait.as_millis() as u64,
                error = %error,
                "a registry call failed and is tried again"
            );
        })
        .await
}

/// The wait before the next try: the longer of ours and the server's. `None` ends the tries.
fn delay(error: &Error, backoff: Option<Duration>) -> Option<Duration> {
    let backoff = backoff?;
    match error.retry_after() {
        Some(asked) if asked > MAX_RETRY_AFTER => None,
        Some(asked) => Some(asked.max(backoff)),
        None => Some(backoff),
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3), or as GHCR says it: `1m30.5s`.
pub(crate) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    if let Some(wait) = go_duration(value) {
        return Some(wait);
    }
    let at = DateTime::parse_from_rfc2822(value).ok()?.to_utc();
    Some((at - now).to_std().unwrap_or_default())
}

/// A duration as Go prints it, from milliseconds to hours.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let number: f64 = rest[..unit].parse().ok().filter(|number| *number >= 0.0)?;
        let end = rest[unit..]
            .find(|c: char| !c.is_ascii_alphabetic())
            .map_or(rest.len(), |length| unit + length);
        let seconds = match &rest[unit..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use reqwest::header::HeaderValue;

    use super::*;

    fn busy(retry_after: Option<Duration>) -> Error {
        Error::Status {
            host: "host".into(),
            subject: "thing".into(),
            status: 429,
            detail: String::new(),
            retry_after,
        }
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let now = DateTime::parse_from_rfc3339("2025-10-21T07:27:30Z").unwrap().to_utc();
        let read = |value: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            retry_after(&headers, now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Tue, 21 Oct 2025 07:28:00 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("Tue, 21 Oct 2025 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("1m30.5s"), Some(Duration::from_millis(90_500)));
        assert_eq!(read("250ms"), Some(Duration::from_millis(250)));
        for nonsense in ["soon", "s", "-5s", "5 apples", ""] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn the_servers_wait_counts_unless_it_is_too_long_for_us() {
        let ours = Duration::from_secs(1);
        assert_eq!(delay(&busy(None), Some(ours)), Some(ours));
        assert_eq!(
            delay(&busy(Some(Duration::from_secs(9))), Some(ours)),
            Some(Duration::from_secs(9))
        );
        assert_eq!(delay(&busy(Some(Duration::from_millis(1))), Some(ours)), Some(ours));
        assert_eq!(delay(&busy(Some(Duration::from_secs(31))), Some(ours)), None);
        assert_eq!(delay(&busy(Some(Duration::from_secs(9))), None), None);
    }

    #[tokio::test]
    async fn a_passing_failure_is_tried_again_and_a_lasting_one_is_not() {
        let tries = AtomicUsize::new(0);
        let result = transient("host", "test", || async {
            match tries.fetch_add(1, Ordering::Relaxed) {
                0 => Err(busy(None)),
                _ => Ok(()),
            }
        })
        .await;
        assert!(result.is_ok());
        assert_eq!(tries.load(Ordering::Relaxed), 2);

        let tries = AtomicUsize::new(0);
        let result: Result<(), _> = transient("host", "test", || async {
            tries.fetch_add(1, Ordering::Relaxed);
            Err(Error::NotFound { host: "host".into(), subject: "thing".into() })
        })
        .await;
        assert!(result.unwrap_err().is_not_found());
        assert_eq!(tries.load(Ordering::Relaxed), 1);
    }
}
