//! Calls to an API beside the registry: its credentials, its pages, its limits on how often it is asked.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, LINK};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::registry::http_client;
use crate::{Error, Options, Registry, retry};

const MAX_PAGE_BYTES: u64 = 16 * 1024 * 1024;
const MAX_DETAIL: usize = 500;

#[derive(Clone)]
pub(super) struct Rest {
    /// For metrics and bodies; not for its credentials.
    registry: Registry,
    http: Client,
    base: Url,
    /// The credentials are in it, marked as secret.
    headers: HeaderMap,
}

impl Rest {
    /// No redirect is followed: the credentials go to the API that was configured, and nowhere else.
    pub(super) fn new(
        registry: Registry,
        options: &Options,
        base: Url,
        headers: HeaderMap,
    ) -> Result<Self, Error> {
        let http = http_client(options, base.scheme() == "http", Policy::none)?;
        Ok(Self { registry, http, base, headers })
    }

    /// `{base}/{path}`, each part as one segment whatever is in it.
    pub(super) fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, Error> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => return Err(self.nonsense("its URL", "the API's URL has no path")),
        };
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// A page, and where the next one is if a `Link` says so.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        subject: &str,
        url: &Url,
    ) -> Result<(T, Option<Url>), Error> {
        let (body, next) = retry::transient(self.host(), "api_get", || async {
            let response = self.call(Method::GET, url, subject).await?;
            let next = next_page(response.headers());
            Ok((self.registry.body(subject, response, MAX_PAGE_BYTES).await?, next))
        })
        .await?;
        let page = serde_json::from_slice(&body)
            .map_err(|error| self.nonsense(subject, &error.to_string()))?;
        let next = match next {
            Some(next) => {
                let next = url
                    .join(&next)
                    .map_err(|_| self.nonsense(subject, "the link to its next page is no URL"))?;
                if next.origin() != self.base.origin() || next == *url {
                    return Err(self.nonsense(subject, "the link to its next page leads elsewhere"));
                }
                Some(next)
            }
            None => None,
        };
        Ok((page, next))
    }

    /// A call whose answer's body does not matter. False: what it is about is not there.
    pub(super) async fn act(
        &self,
        method: &Method,
        subject: &str,
        url: &Url,
    ) -> Result<bool, Error> {
        let done = retry::transient(self.host(), "api_act", || async {
            self.call(method.clone(), url, subject).await.map(drop)
        })
        .await;
        match done {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn call(&self, method: Method, url: &Url, subject: &str) -> Result<Response, Error> {
        let mut request = Request::new(method.clone(), url.clone());
        request.headers_mut().extend(self.headers.clone());
        let sending = async {
            match tokio::time::timeout(self.registry.patience(), self.http.execute(request)).await {
                Ok(answer) => answer.map_err(|e| Error::transport(self.host(), subject, e)),
                Err(_) => Err(Error::TimedOut {
                    host: self.host().to_owned(),
                    subject: subject.to_owned(),
                    after: self.registry.patience(),
                }),
            }
        };
        let response = self.registry.measured("api", &method, sending).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.registry.body(subject, response, MAX_PAGE_BYTES).await.unwrap_or_default();
        Err(failure(self.host(), subject, status, &headers, &body, Utc::now()))
    }

    fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    pub(super) fn nonsense(&self, subject: &str, reason: &str) -> Error {
        Error::Protocol {
            host: self.host().to_owned(),
            subject: subject.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// What a status means. A limit on how often one may ask is told by 429, or by 403 as if it were about rights.
fn failure(
    host: &str,
    subject: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &Bytes,
    now: DateTime<Utc>,
) -> Error {
    #[derive(Deserialize)]
    struct Words {
        message: String,
    }
    let words = serde_json::from_slice::<Words>(body).map(|words| words.message);
    let words = words.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned());
    let detail: String = words.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect();
    let (host, subject) = (host.to_owned(), subject.to_owned());
    if let Some(busy) = retry::busy(status, headers, &words, now) {
        return busy.error(host, subject, status, detail);
    }
    let told = retry::retry_after(headers, now);
    match status {
        StatusCode::NOT_FOUND => Error::NotFound { host, subject },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Error::Unauthorized { host, subject, detail }
        }
        _ => Error::Status { host, subject, status: status.as_u16(), detail, retry_after: told },
    }
}

/// The target of `rel="next"`: GitHub puts all of its links into one header.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    links.flat_map(|links| links.split(',')).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.split(';').any(|p| p.trim() == "rel=\"next\"").then(|| target.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::header::{HeaderName, HeaderValue, RETRY_AFTER};

    use super::*;

    fn of(status: u16, headers: &[(&'static str, &str)], body: &str) -> Error {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        failure("api", "thing", status, &headers, &Bytes::from(body.to_owned()), now)
    }

    #[test]
    fn a_limit_is_told_from_missing_rights_and_says_how_long_to_wait() {
        let secondary = r#"{"message":"You have exceeded a secondary rate limit."}"#;
        let untold = of(403, &[], secondary);
        assert!(untold.is_transient());
        assert_eq!(untold.retry_after(), Some(Duration::from_secs(60)));
        let told = of(403, &[(RETRY_AFTER.as_str(), "7")], "{}");
        assert_eq!(told.retry_after(), Some(Duration::from_secs(7)));
        let primary =
            of(403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1010")], "{}");
        assert_eq!(primary.retry_after(), Some(Duration::from_secs(10)));
        let plain = of(429, &[], "{}");
        assert_eq!((plain.is_transient(), plain.retry_after()), (true, None));
        assert!(of(403, &[("x-ratelimit-remaining", "9")], "{}").is_unauthorized());
        assert!(of(404, &[], "{}").is_not_found());
        let refused = of(400, &[], r#"{"message":"no"}"#);
        assert!(matches!(refused, Error::Status { status: 400, detail, .. } if detail == "no"));
    }

    #[test]
    fn the_next_link_is_found_among_others() {
        let value = r#"<https://x/?page=1>; rel="prev", <https://x/?page=3>; rel="next", <https://x/?page=9>; rel="last""#;
        let headers = HeaderMap::from_iter([(LINK, HeaderValue::from_static(value))]);
        assert_eq!(next_page(&headers).as_deref(), Some("https://x/?page=3"));
        assert_eq!(next_page(&HeaderMap::new()), None);
    }
}
