//! Trying again: how often, how long apart, and when the server says.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use chrono::{DateTime, NaiveDateTime, Utc};
use reqwest::StatusCode;
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

/// What GitHub wants of whoever met a secondary limit (a 403) that names no time.
const UNTOLD_WAIT: Duration = Duration::from_secs(60);

/// An answer that says "not now".
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy {
    pub(crate) retry_after: Option<Duration>,
}

impl Busy {
    /// As if it had been said by the status that is for it.
    pub(crate) fn error(
        self,
        host: String,
        subject: String,
        said: StatusCode,
        detail: String,
    ) -> Error {
        let status = if said == StatusCode::FORBIDDEN { 429 } else { said.as_u16() };
        Error::Status { host, subject, status, detail, retry_after: self.retry_after }
    }
}

/// Whether an answer is about how much may be asked: 429 and 503, and 403 where it only looks like one about rights.
/// `words` is what it says.
pub(crate) fn busy(
    status: StatusCode,
    headers: &HeaderMap,
    words: &str,
    now: DateTime<Utc>,
) -> Option<Busy> {
    let told = retry_after(headers, now);
    let has_spent_all = number(headers, "x-ratelimit-remaining") == Some(0);
    let is_busy = match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => true,
        StatusCode::FORBIDDEN => {
            let is_told = words.to_ascii_lowercase().contains("rate limit");
            told.is_some() || has_spent_all || is_told
        }
        _ => false,
    };
    let reset = || {
        let at = number(headers, "x-ratelimit-reset").filter(|_| has_spent_all)?;
        (DateTime::from_timestamp(at, 0)? - now).to_std().ok()
    };
    let untold = || (status == StatusCode::FORBIDDEN).then_some(UNTOLD_WAIT);
    is_busy.then(|| Busy {
        retry_after: told.or_else(|| told_in(words)).or_else(reset).or_else(untold),
    })
}

fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// `Retry-After`: in seconds, as an HTTP date (RFC 9110, 10.2.3), or as a duration of Go.
pub(crate) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    wait(value).or_else(|| Some((http_date(value)? - now).to_std().unwrap_or_default()))
}

/// As GHCR says it, in the text of its error: `retry-after: 638.893µs, allowed: 44000/minute`.
fn told_in(words: &str) -> Option<Duration> {
    const NAME: &str = "retry-after:";
    let at = words.to_ascii_lowercase().find(NAME)?;
    let rest = words.get(at + NAME.len()..)?.trim_start();
    wait(rest.split([',', ';', ' ', '"']).next()?)
}

/// Seconds, with a fraction or without, or a duration of Go. One too long to be told is long.
fn wait(value: &str) -> Option<Duration> {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match value.parse::<f64>() {
        Ok(seconds) if is_number => {
            Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
        }
        _ => go_duration(value),
    }
}

/// In any of the three forms that a recipient must accept (RFC 9110, 5.6.7).
fn http_date(value: &str) -> Option<DateTime<Utc>> {
    const OBSOLETE: [&str; 2] = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    if let Ok(at) = DateTime::parse_from_rfc2822(value) {
        return Some(at.to_utc());
    }
    let read = |form| NaiveDateTime::parse_from_str(value, form).ok();
    OBSOLETE.into_iter().find_map(read).map(|at| at.and_utc())
}

/// A duration as Go prints it: `1m30.5s`, `638.893µs`.
fn go_duration(text: &str) -> Option<Duration> {
    let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let unit = rest.find(|c| !is_of_number(c))?;
        let number: f64 = rest.get(..unit)?.parse().ok()?;
        let end = rest.get(unit..)?.find(is_of_number).map_or(rest.len(), |length| unit + length);
        let seconds = match rest.get(unit..end)? {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            // The sign for micro, and the Greek letter.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = rest.get(end..)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use reqwest::header::HeaderValue;

    use super::*;

    fn refusal(retry_after: Option<Duration>) -> Error {
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
        assert_eq!(read("2.5"), Some(Duration::from_millis(2_500)));
        assert_eq!(read("99999999999999999999"), Some(Duration::MAX));
        for obsolete in ["Tuesday, 21-Oct-25 07:28:00 GMT", "Tue Oct 21 07:28:00 2025"] {
            assert_eq!(read(obsolete), Some(Duration::from_secs(30)), "{obsolete}");
        }
        for nonsense in ["soon", "s", "-5s", "-5", "5 apples", "", ".", "inf", "1e9"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_wait_is_read_from_the_words_of_a_refusal_too() {
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        let of = |status, words: &str| {
            busy(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), words, now)
        };
        let after = |wait| Some(Busy { retry_after: wait });
        let micros = "TOOMANYREQUESTS retry-after: 638.893\u{b5}s, allowed: 44000/minute";
        assert_eq!(of(429, micros), after(Some(Duration::from_nanos(638_893))));
        assert_eq!(of(429, "Retry-After: 1m3s"), after(Some(Duration::from_secs(63))));
        assert_eq!(of(503, "retry-after: 7"), after(Some(Duration::from_secs(7))));
        assert_eq!(of(503, "retry-after: soon"), after(None));
        assert_eq!(of(429, ""), after(None));
        let secondary = "You have exceeded a secondary rate limit";
        assert_eq!(of(403, secondary), after(Some(UNTOLD_WAIT)));
        assert_eq!(of(403, "DENIED no"), None);
        assert_eq!(of(500, "retry-after: 7"), None);
    }

    #[test]
    fn the_servers_wait_counts_unless_it_is_too_long_for_us() {
        let ours = Duration::from_secs(1);
        assert_eq!(delay(&refusal(None), Some(ours)), Some(ours));
        assert_eq!(
            delay(&refusal(Some(Duration::from_secs(9))), Some(ours)),
            Some(Duration::from_secs(9))
        );
        assert_eq!(delay(&refusal(Some(Duration::from_millis(1))), Some(ours)), Some(ours));
        assert_eq!(delay(&refusal(Some(Duration::from_secs(31))), Some(ours)), None);
        assert_eq!(delay(&refusal(Some(Duration::from_secs(9))), None), None);
    }

    #[tokio::test]
    async fn a_passing_failure_is_tried_again_and_a_lasting_one_is_not() {
        let tries = AtomicUsize::new(0);
        let result = transient("host", "test", || async {
            match tries.fetch_add(1, Ordering::Relaxed) {
                0 => Err(refusal(None)),
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
