//! `Prefer: wait=N` (RFC 7240): how long a call may be held.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::api::MAX_WAIT;

pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Zero without the header. What can't be read is no preference, as the RFC has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(pub Duration);

impl Wait {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let seconds = headers
            .get_all("prefer")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .find_map(|preference| {
                let preference = preference.split(';').next().unwrap_or_default();
                let (name, value) = preference.split_once('=')?;
                let wait = name.trim().eq_ignore_ascii_case("wait");
                wait.then(|| value.trim().trim_matches('"').parse::<u64>().ok()).flatten()
            });
        Self(Duration::from_secs(seconds.unwrap_or_default()).min(MAX_WAIT))
    }

    /// What the answer says of it.
    pub(crate) fn applied(self) -> Option<(HeaderName, HeaderValue)> {
        let value = HeaderValue::from_str(&format!("wait={}", self.0.as_secs())).ok()?;
        (!self.0.is_zero()).then_some((PREFERENCE_APPLIED, value))
    }
}

impl<S: Sync> FromRequestParts<S> for Wait {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(values: &[&str]) -> u64 {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", HeaderValue::from_str(value).unwrap());
        }
        Wait::of(&headers).0.as_secs()
    }

    #[test]
    fn the_time_is_found_among_other_preferences_and_has_an_end() {
        assert_eq!(seconds(&["wait=10"]), 10);
        assert_eq!(seconds(&["respond-async, Wait = 20; foo"]), 20);
        assert_eq!(seconds(&["handling=lenient", "wait=\"30\""]), 30);
        assert_eq!(seconds(&["wait=100000"]), 300);
    }

    #[test]
    fn what_cannot_be_read_is_no_preference() {
        for bad in ["", "wait", "wait=", "wait=-1", "wait=ten", "waiting=5"] {
            assert_eq!(seconds(&[bad]), 0, "{bad}");
        }
    }
}
