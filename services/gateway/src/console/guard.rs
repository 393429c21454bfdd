//! What browsers are told of every answer, and whether a request comes from our own pages.

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);

/// A page is of its moment and of whoever is logged in: nobody keeps it.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let same_origin = HeaderValue::from_static("same-origin");
    // Without any referrer a browser sends `Origin: null` with our own forms; over plain HTTP it sends nothing else by
    // which they could be told from another site's.
    headers.insert(REFERRER_POLICY, same_origin.clone());
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), same_origin.clone());
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// False: a browser says that another site sent it. Whoever is no browser says nothing.
pub(super) fn is_from_here(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(HeaderName::from_static("sec-fetch-site")) {
        return matches!(site, "same-origin" | "none");
    }
    match headers.get(ORIGIN) {
        None => true,
        Some(_) => {
            let host = text(ORIGIN).and_then(|origin| origin.split_once("://"));
            host.is_some_and(|(_, host)| Some(host) == text(HOST))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(pairs: &[(&'static str, &'static str)]) -> bool {
        let headers = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        is_from_here(&headers.collect())
    }

    #[test]
    fn what_another_site_sends_is_known() {
        assert!(is(&[]));
        assert!(is(&[("sec-fetch-site", "same-origin")]) && is(&[("sec-fetch-site", "none")]));
        assert!(
            !is(&[("sec-fetch-site", "cross-site")]) && !is(&[("sec-fetch-site", "same-site")])
        );
        assert!(is(&[("origin", "http://here:8080"), ("host", "here:8080")]));
        assert!(!is(&[("origin", "http://there"), ("host", "here:8080")]));
        assert!(!is(&[("origin", "null"), ("host", "here")]) && !is(&[("origin", "http://here")]));
    }
}
