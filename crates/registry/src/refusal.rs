//! What an answer that is no success means: an error, in the words of whoever gave it.

use chrono::Utc;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::exchange::MAX_SMALL_BODY;
use crate::registry::Registry;
use crate::{Error, retry};

const MAX_DETAIL: usize = 500;

impl Registry {
    /// Turns every status but 2xx into an error. `method` is what was asked by.
    pub(crate) async fn succeeded(
        &self,
        method: &Method,
        subject: &str,
        response: Response,
    ) -> Result<Response, Error> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let headers = response.headers().clone();
        // The registry may have led to another host: storage, or a token service.
        let is_own = self.origin().owns(response.url());
        let host = if is_own { self.host().to_owned() } else { name(response.url()) };
        let subject = subject.to_owned();
        let told = retry::retry_after(&headers, Utc::now());
        // The gate is shut before the words are read: they may take their time, and meanwhile others go on asking. For
        // storage and a token service too, where most calls lead. Of a 403 the words alone tell what it is about.
        let is_busy =
            matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if is_busy {
            self.pace().busy(told);
        }
        // What it says is worth showing but not worth failing for.
        let body = self.body(&subject, response, MAX_SMALL_BODY).await.unwrap_or_default();
        let detail = detail(status, &body);
        if let Some(busy) = retry::busy(status, &headers, &detail, Utc::now()) {
            match busy.retry_after {
                Some(wait) if is_busy && told.is_none() => self.pace().shut(wait),
                // Another host's 403 says nothing of how much the registry may be asked.
                wait if !is_busy && is_own => self.pace().busy(wait),
                _ => {}
            }
            return Err(busy.error(host, subject, status, detail));
        }
        Err(match status {
            // To a PUT it says that the place is lacking, or what the thing needs: not the thing itself.
            StatusCode::NOT_FOUND if *method != Method::PUT => Error::NotFound { host, subject },
            StatusCode::UNAUTHORIZED if is_own && self.auth().credentials().is_none() => {
                let detail = format!("{detail} (no credentials are configured)");
                Error::Unauthorized { host, subject, detail }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::Unauthorized { host, subject, detail }
            }
            _ => {
                Error::Status { host, subject, status: status.as_u16(), detail, retry_after: told }
            }
        })
    }
}

/// The rest of a URL may be a signature.
fn name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[derive(Deserialize)]
struct Problems {
    errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own words: its errors as JSON, else the text, else the status.
fn detail(status: StatusCode, body: &[u8]) -> String {
    let words = match serde_json::from_slice::<Problems>(body) {
        Ok(problems) => {
            let each = problems.errors.iter().map(|p| format!("{} {}", p.code, p.message));
            each.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let words: String = words.trim().chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect();
    if words.is_empty() {
        status.canonical_reason().unwrap_or("no reason given").to_owned()
    } else {
        words
    }
}

#[cfg(test)]
mod tests {
    use axum::http;
    use bytes::Bytes;
    use futures::FutureExt as _;
    use reqwest::{Body, ResponseBuilderExt as _};

    use super::*;
    use crate::Options;

    fn registry() -> Registry {
        Registry::new(&Options { host: "registry.example".into(), ..Options::default() }).unwrap()
    }

    fn answer(url: &str, status: u16, wait: Option<&str>, body: impl Into<Body>) -> Response {
        let mut answer = http::Response::builder().url(url.parse().unwrap()).status(status);
        if let Some(wait) = wait {
            answer = answer.header("retry-after", wait);
        }
        answer.body(body.into()).unwrap().into()
    }

    fn is_shut(registry: &Registry) -> bool {
        registry.pace().open().now_or_never().is_none()
    }

    const OWN: &str = "https://registry.example/v2/a/blobs/x";
    const STORAGE: &str = "https://storage.example:8443/bucket/x?signature=secret";

    #[test]
    fn the_registrys_words_are_kept_and_bounded() {
        let json = br#"{"errors":[{"code":"DENIED","message":"no","detail":{"a":1}}]}"#;
        assert_eq!(detail(StatusCode::FORBIDDEN, json), "DENIED no");
        assert_eq!(detail(StatusCode::BAD_GATEWAY, b"<html>\nup\n"), "<html>up");
        assert_eq!(detail(StatusCode::BAD_GATEWAY, b""), "Bad Gateway");
        assert_eq!(detail(StatusCode::BAD_GATEWAY, &[b'x'; 9000]).len(), MAX_DETAIL);
    }

    #[tokio::test]
    async fn the_gate_is_shut_before_the_words_of_a_refusal_have_come() {
        for status in [429, 503] {
            let registry = registry();
            let words = futures::stream::pending::<Result<Bytes, std::io::Error>>();
            let answer = answer(OWN, status, Some("20"), Body::wrap_stream(words));
            let refused = registry.succeeded(&Method::GET, "it", answer);
            let mut refused = std::pin::pin!(refused);
            assert!(refused.as_mut().now_or_never().is_none(), "its words are still to come");
            assert!(is_shut(&registry), "{status}");
        }
    }

    #[tokio::test]
    async fn a_wait_that_the_words_alone_tell_shuts_the_gate_too() {
        for (status, words) in [(429, "retry-after: 20s"), (403, "secondary rate limit")] {
            let registry = registry();
            let refused = registry.succeeded(&Method::GET, "it", answer(OWN, status, None, words));
            assert!(refused.await.unwrap_err().retry_after().is_some());
            assert!(is_shut(&registry), "{status}");
        }
    }

    #[tokio::test]
    async fn a_403_of_another_host_does_not_shut_the_registrys_gate() {
        let registry = registry();
        for (wait, words) in [(Some("20"), ""), (None, "secondary rate limit")] {
            let answer = answer(STORAGE, 403, wait, words);
            let error = registry.succeeded(&Method::GET, "it", answer).await.unwrap_err();
            assert!(error.is_transient(), "{error}");
            assert!(!is_shut(&registry), "{words}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_of_the_host_that_said_it() {
        let registry = registry();
        for (url, host) in [(OWN, "registry.example"), (STORAGE, "storage.example:8443")] {
            for status in [401, 403, 500] {
                let answer = answer(url, status, None, "no");
                let error = registry.succeeded(&Method::GET, "it", answer).await.unwrap_err();
                let told = error.to_string();
                assert!(told.starts_with(host) && !told.contains("secret"), "{told}");
                // To have some would not help elsewhere.
                let is_about_ours = told.contains("no credentials are configured");
                assert_eq!(is_about_ours, url == OWN && status == 401, "{told}");
            }
        }
    }
}
